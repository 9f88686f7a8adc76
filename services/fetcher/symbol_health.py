"""What a failure or an answer makes of a symbol: its next state, and when it is asked again. No clock and no bus in here."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import Dataset, Timeframe
from contracts.symbol_health import SymbolHealth, SymbolState
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.retry_policy import RETRY_POLICIES, Scope

SPREAD = 0.1


class Series(NamedTuple):
    """What has a health of its own. A timeframe too, as plans often have daily bars of a symbol and no intraday ones."""

    provider: str
    dataset: Dataset
    timeframe: Timeframe | None
    symbol: str

    @property
    def subject(self) -> str:
        """Where its health is published."""
        return subjects.symbol_health(*self)


def series_of(task: FetchTask, provider: str | None = None) -> Series:
    """The series that a task asks for, of its own provider or another."""
    return Series(provider or task.provider, task.dataset, task.timeframe, task.symbol)


@dataclass(frozen=True)
class ProbeRules:
    """Seconds until a symbol is asked again, after one failure, two, …; the last one for ever after.

    `dead_after`: not found so many times in a row, and it is no more suspected but taken for dead.
    """

    not_found_s: Sequence[float]
    restricted_s: Sequence[float]
    dead_after: int

    def next_probe(self, verdict: Verdict, failures: int, now: datetime) -> datetime:
        """A little later each time than the rule says, so that what failed together is not asked again all at once."""
        waits = self.restricted_s if verdict is Verdict.PLAN_RESTRICTED else self.not_found_s
        wait_s = waits[min(failures, len(waits)) - 1]
        return now + timedelta(seconds=wait_s * random.uniform(1.0, 1.0 + SPREAD))


def is_asleep(health: SymbolHealth | None, now: datetime) -> bool:
    """Whether a symbol is not worth a call now: it is not active and its next probe is not due."""
    return health is not None and health.next_probe_at is not None and now < health.next_probe_at


def after_failure(
    known: SymbolHealth | None, series: Series, error: ProviderError, now: datetime, rules: ProbeRules
) -> SymbolHealth | None:
    """The health that follows from a failure; None if it says nothing new.

    A first not_found gives `suspect`; who knows that there were prices before makes the last state `delisted` of `unknown`.
    """
    if RETRY_POLICIES[error.verdict].scope is not Scope.SYMBOL:
        return None
    doubted = known if known is not None and known.state != "active" else None
    again = doubted is not None and doubted.verdict == error.verdict
    if doubted and again and is_asleep(doubted, now) and error.renamed_to == doubted.renamed_to:
        return None  # a person tried, or two calls crossed: the probe that counts is still to come
    failures = (doubted.failures if doubted and again else 0) + 1
    state = _state(error, failures, rules)
    before = known.state if known else "active"
    return SymbolHealth(
        provider=series.provider,
        dataset=series.dataset,
        timeframe=series.timeframe,
        symbol=series.symbol,
        state=state,
        before=before,
        since=known.since if known and before == state else now,
        at=now,
        failures=failures,
        next_probe_at=rules.next_probe(error.verdict, failures, now),
        verdict=error.verdict,
        message=error.message,
        renamed_to=error.renamed_to,
    )


def _state(error: ProviderError, failures: int, rules: ProbeRules) -> SymbolState:
    if error.verdict is Verdict.PLAN_RESTRICTED:
        return "plan_restricted"
    if error.renamed_to:
        return "renamed"
    return "suspect" if failures < rules.dead_after else "unknown"


def after_answer(known: SymbolHealth | None, now: datetime) -> SymbolHealth | None:
    """The health that follows from an answer: active again; None if it always was."""
    if known is None or known.state == "active":
        return None
    return SymbolHealth(
        provider=known.provider,
        dataset=known.dataset,
        timeframe=known.timeframe,
        symbol=known.symbol,
        state="active",
        before=known.state,
        since=now,
        at=now,
    )


def why_asleep(health: SymbolHealth) -> str:
    """For the result of a symbol that was not asked for: how it stands, and when it is asked again."""
    until = f"{health.next_probe_at:%Y-%m-%dT%H:%M:%SZ}" if health.next_probe_at else "now"
    name = f" to {health.renamed_to}" if health.renamed_to else ""
    return f"{health.provider}: {health.state}{name} since {health.since:%Y-%m-%dT%H:%M:%SZ}; next probe at {until}"
