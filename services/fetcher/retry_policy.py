"""Retry policies: for each verdict of a provider, of whom it speaks, what becomes of the task, and how the circuit reacts."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from services.fetcher.provider import Verdict

MAX_NAK_S = 5.0


class Action(StrEnum):
    """Next step of a task: RETRY it later, FAIL_OVER to the next provider, PUBLISH an empty answer, or GIVE_UP: a dead letter."""

    RETRY = "retry"
    FAIL_OVER = "fail_over"
    PUBLISH = "publish"
    GIVE_UP = "give_up"


class Scope(StrEnum):
    """Subject of a verdict: this request alone, the symbol whoever asks, all calls with the API key, or all of the provider."""

    REQUEST = "request"
    SYMBOL = "symbol"
    KEY = "key"
    PROVIDER = "provider"


@dataclass(frozen=True)
class RetryPolicy:
    """Consequences of one verdict.

    `attempts`: tries of one task before its action becomes FAIL_OVER; None: no limit. `opens`: state that it opens the key's
    circuit with, `breaker_open` after several in a row, the others at once for `cool_down_s`, doubling. `slows_down`: the pace
    is halved too. `keeps_waiting`: where nobody else can serve it, a task that no person waits for stays in the queue.
    """

    scope: Scope
    action: Action
    attempts: int | None = 1
    opens: Literal["cooling_down", "stopped", "breaker_open"] | None = None
    cool_down_s: float = 0.0
    slows_down: bool = False
    keeps_waiting: bool = False

    @property
    def ends_batch(self) -> bool:
        """True if the verdict covers the key or the provider: the batch's next symbol would fail likewise and only cost a call."""
        return self.scope in (Scope.KEY, Scope.PROVIDER)


RETRY_POLICIES: dict[Verdict, RetryPolicy] = {
    # The quota answers for the provider, not for the symbol: the task keeps its place until its time is up.
    Verdict.RATE_LIMITED: RetryPolicy(
        Scope.KEY, Action.RETRY, attempts=None, opens="cooling_down", cool_down_s=15.0, slows_down=True
    ),
    # Nothing works with this key: stay away for long, so that a wrong key costs a handful of calls a day.
    Verdict.UNAUTHORIZED: RetryPolicy(Scope.KEY, Action.FAIL_OVER, opens="stopped", cool_down_s=900.0, keeps_waiting=True),
    Verdict.PLAN_RESTRICTED: RetryPolicy(Scope.SYMBOL, Action.FAIL_OVER),
    Verdict.NOT_FOUND: RetryPolicy(Scope.SYMBOL, Action.FAIL_OVER),
    Verdict.EMPTY: RetryPolicy(Scope.REQUEST, Action.PUBLISH),
    Verdict.BAD_REQUEST: RetryPolicy(Scope.REQUEST, Action.GIVE_UP),
    Verdict.MALFORMED: RetryPolicy(Scope.REQUEST, Action.FAIL_OVER),
    Verdict.SERVER_ERROR: RetryPolicy(Scope.PROVIDER, Action.RETRY, attempts=4, opens="breaker_open"),
    Verdict.TIMEOUT: RetryPolicy(Scope.PROVIDER, Action.RETRY, attempts=3, opens="breaker_open"),
}


def next_action(verdict: Verdict, attempt: int, *, other_key: bool = False) -> Action:
    """Choose the next step of a task whose `attempt`-th try (from 1) ended so. `other_key`: another one may be called now."""
    policy = RETRY_POLICIES[verdict]
    if policy.scope is Scope.KEY and other_key:
        return Action.RETRY
    exhausted = policy.attempts is not None and attempt >= policy.attempts
    return Action.FAIL_OVER if policy.action is Action.RETRY and exhausted else policy.action


def retry_delay_s(attempt: int) -> float:
    """Seconds before the next try: doubling from half a second, with jitter, never above MAX_NAK_S."""
    return min(MAX_NAK_S, 0.5 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
