"""What follows from each verdict: the one place that turns a failure into a retry, another provider, or a dead letter."""

import random
from dataclasses import dataclass
from enum import StrEnum

from services.fetcher.provider import Verdict

MAX_NAK_S = 5.0


class Then(StrEnum):
    """RETRY: back to the queue. ELSEWHERE: to the next provider, if there is one. GIVE_UP: a dead letter."""

    RETRY = "retry"
    ELSEWHERE = "elsewhere"
    GIVE_UP = "give_up"


@dataclass(frozen=True)
class Consequence:
    """`then` for the task, after `attempts` tries ELSEWHERE; `cool_down_s`: how long the provider rests, doubling (0: not).

    `waits`: where there is no other provider, a task that nobody sits waiting for is kept until this one is well again.
    """

    then: Then
    attempts: int = 1
    cool_down_s: float = 0.0
    breaker: bool = False
    waits: bool = False


CONSEQUENCES: dict[Verdict, Consequence] = {
    # The quota answers for the provider, not for the symbol: the task keeps its place until its time is up.
    Verdict.RATE_LIMITED: Consequence(Then.RETRY, attempts=1_000_000, cool_down_s=15.0),
    # Nothing works with this key: rest long, so that a wrong key costs a handful of calls a day.
    Verdict.UNAUTHORIZED: Consequence(Then.ELSEWHERE, cool_down_s=900.0, waits=True),
    Verdict.PLAN_RESTRICTED: Consequence(Then.ELSEWHERE),
    Verdict.NOT_FOUND: Consequence(Then.ELSEWHERE),
    Verdict.EMPTY: Consequence(Then.GIVE_UP),  # an answer: it is published as an event without rows
    Verdict.BAD_REQUEST: Consequence(Then.GIVE_UP),
    Verdict.MALFORMED: Consequence(Then.ELSEWHERE),
    Verdict.SERVER_ERROR: Consequence(Then.RETRY, attempts=4, breaker=True),
    Verdict.TIMEOUT: Consequence(Then.RETRY, attempts=3, breaker=True),
}


def consequence(verdict: Verdict, attempt: int) -> Then:
    """What to do with a task whose `attempt`-th try (from 1) ended so. `empty` is an answer, not a failure."""
    rule = CONSEQUENCES[verdict]
    return Then.ELSEWHERE if rule.then is Then.RETRY and attempt >= rule.attempts else rule.then


def retry_delay_s(attempt: int) -> float:
    """Seconds before the next try: doubling from half a second, with jitter, never above MAX_NAK_S."""
    return min(MAX_NAK_S, 0.5 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
