"""Symbol health: the state machine of one symbol at one provider, and its store on the stream SYMBOLS."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy
from nats.js.errors import APIError, NotFoundError
from prometheus_client import Counter

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import Dataset, Timeframe, decode
from contracts.symbol_health import SymbolHealth, SymbolState
from services.fetcher.last_event import last_events
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.retry_policy import RETRY_POLICIES, Scope
from services.runtime.bus import EXPECTED_SUBJECT_SEQUENCE, WRONG_LAST_SEQUENCE, Bus
from services.runtime.follow import Batch, follow_stream

SPREAD = 0.1

_BEHIND_AT_MOST_S = 5.0

CHANGES = Counter("quotebus_symbol_changes_total", "Symbols whose health changed.", ["provider", "state"])

log = structlog.get_logger()


class SymbolHealthKey(NamedTuple):
    """Key of a series with its own health, by timeframe too: plans often have daily bars of a symbol and no intraday ones."""

    provider: str
    dataset: Dataset
    timeframe: Timeframe | None
    symbol: str

    @property
    def subject(self) -> str:
        """Subject of the series' health."""
        return subjects.symbol_health(*self)


def series_of(task: FetchTask, provider: str | None = None) -> SymbolHealthKey:
    """The series that a task asks for, of its own provider or another."""
    return SymbolHealthKey(provider or task.provider, task.dataset, task.timeframe, task.symbol)


@dataclass(frozen=True)
class ProbePolicy:
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


def is_suspended(health: SymbolHealth | None, now: datetime) -> bool:
    """True if the symbol is suspended: it is not active and its next probe is not due."""
    return health is not None and health.next_probe_at is not None and now < health.next_probe_at


def next_health(
    known: SymbolHealth | None, series: SymbolHealthKey, error: ProviderError, now: datetime, rules: ProbePolicy
) -> SymbolHealth | None:
    """The health that follows from a failure; None if it says nothing new.

    A first not_found gives `suspect`; who knows that there were prices before makes the last state `delisted` of `unknown`.
    """
    if RETRY_POLICIES[error.verdict].scope is not Scope.SYMBOL:
        return None
    doubted = known if known is not None and known.state != "active" else None
    again = doubted is not None and doubted.verdict == error.verdict
    if doubted and again and is_suspended(doubted, now) and error.renamed_to == doubted.renamed_to:
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


def _state(error: ProviderError, failures: int, rules: ProbePolicy) -> SymbolState:
    if error.verdict is Verdict.PLAN_RESTRICTED:
        return "plan_restricted"
    if error.renamed_to:
        return "renamed"
    return "suspect" if failures < rules.dead_after else "unknown"


def health_after_answer(known: SymbolHealth | None, now: datetime) -> SymbolHealth | None:
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


def describe_health(health: SymbolHealth) -> str:
    """For the result of a symbol that was not asked for: how it stands, and when it is asked again."""
    until = f"{health.next_probe_at:%Y-%m-%dT%H:%M:%SZ}" if health.next_probe_at else "now"
    name = f" to {health.renamed_to}" if health.renamed_to else ""
    return f"{health.provider}: {health.state}{name} since {health.since:%Y-%m-%dT%H:%M:%SZ}; next probe at {until}"


class SymbolHealthStore:
    """The health of symbols as this fetcher knows it."""

    def __init__(self, bus: Bus, rules: ProbePolicy) -> None:
        self._bus = bus
        self._rules = rules
        self._known: dict[SymbolHealthKey, tuple[SymbolHealth | None, int]] = {}
        self._read_to = 0
        self._news = asyncio.Condition()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """Follow the stream for ever."""
        follow = follow_stream(
            self._bus.nc, subjects.SYMBOLS, subjects.ALL_SYMBOL_HEALTH, DeliverPolicy.LAST_PER_SUBJECT, patient=True
        )
        async with aclosing(follow) as batches:
            async for batch in batches:
                async with self._news:
                    self._take(batch)
                    self._news.notify_all()

    async def refresh(self, max_age_s: float = 0.0) -> None:
        """Wait until all that is stored now has been read, unless that was so less than `max_age_s` ago.

        Raises:
            nats.errors.Error: the bus does not answer.
        """
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        async with self._reading:
            # Whoever waited here for another one's reading, begun after it asked, has what it wants.
            if self._read_at > asked_at - max_age_s:
                return
            began = clock()
            await self._read_until(await self._last_sequence())
            self._read_at = began

    def health(self, series: SymbolHealthKey) -> SymbolHealth | None:
        """Health of a series; None if it never failed."""
        health, _ = self._known.get(series, (None, 0))
        return health

    def suspended(self, series: SymbolHealthKey) -> SymbolHealth | None:
        """The health of a series that is not worth a call now; None if it is."""
        health = self.health(series)
        return health if is_suspended(health, datetime.now(UTC)) else None

    def is_probe(self, series: SymbolHealthKey) -> bool:
        """True if a call for the series would be a probe."""
        health = self.health(series)
        return health is not None and health.state != "active"

    async def record(self, task: FetchTask, error: ProviderError | None) -> None:
        """Take a failed call, or without an error an answer, into account. Changes count once, whichever fetcher is quicker.

        Best effort: what the bus does not take now is found out by the next call.
        """
        try:
            await (self._failed(task, error) if error else self._answered(task))
        except (APIError, nats.errors.Error) as fault:
            log.debug("symbol_health_publish_failed", symbol=task.symbol, error=str(fault) or type(fault).__name__)

    async def _failed(self, task: FetchTask, error: ProviderError) -> None:
        series = series_of(task)
        told = next_health(self.health(series), series, error, datetime.now(UTC), self._rules)
        if told is None:
            return
        if told.state == "unknown" and await self._has_stored_prices(series):
            told = msgspec.structs.replace(told, state="delisted", since=self._since(series, told))
        await self._publish(series, told)

    async def _answered(self, task: FetchTask) -> None:
        series = series_of(task)
        if told := health_after_answer(self.health(series), datetime.now(UTC)):
            await self._publish(series, told)

    def _since(self, series: SymbolHealthKey, told: SymbolHealth) -> datetime:
        known = self.health(series)
        return known.since if known and known.state == "delisted" else told.at

    async def _has_stored_prices(self, series: SymbolHealthKey) -> bool:
        if (known := self.health(series)) and known.state == "delisted":
            return True
        served = await last_events(self._bus, series.dataset, series.timeframe, [series.symbol])
        return series.symbol in served and served[series.symbol].provider == series.provider

    async def _publish(self, series: SymbolHealthKey, told: SymbolHealth) -> None:
        _, sequence = self._known.get(series, (None, 0))
        headers = {EXPECTED_SUBJECT_SEQUENCE: str(sequence)}
        try:
            ack = await self._bus.publish(series.subject, told, headers=headers)
        except APIError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            # Another fetcher said it first, or the stream was made anew: what is there counts.
            await self._load(series)
            return
        self._known[series] = (told, ack.seq)
        CHANGES.labels(told.provider, told.state).inc()
        log.info(
            "symbol_health", provider=told.provider, dataset=told.dataset, timeframe=told.timeframe, symbol=told.symbol,
            state=told.state, before=told.before, failures=told.failures, next_probe_at=told.next_probe_at, reason=told.message,
        )  # fmt: skip

    async def _last_sequence(self) -> int:
        try:
            return (await self._bus.js.get_last_msg(subjects.SYMBOLS, subjects.ALL_SYMBOL_HEALTH)).seq or 0
        except NotFoundError:
            return 0

    async def _read_until(self, sequence: int) -> None:
        try:
            async with asyncio.timeout(_BEHIND_AT_MOST_S), self._news:
                await self._news.wait_for(lambda: self._read_to >= sequence)
        except TimeoutError:
            raise nats.errors.TimeoutError from None

    async def _load(self, series: SymbolHealthKey) -> None:
        try:
            raw = await self._bus.js.get_last_msg(subjects.SYMBOLS, series.subject)
        except NotFoundError:
            self._known.pop(series, None)
        else:
            self._known[series] = (_decoded(series.subject, raw.data or b""), raw.seq or 0)

    def _take(self, batch: Batch) -> None:
        if batch.missed is not None and batch.missed.first == 1:
            # The stream was made anew.
            self._known.clear()
            self._read_to = 0
        for message in batch.messages:
            self._note(message)

    def _note(self, message: Msg) -> None:
        self._read_to = message.metadata.sequence.stream
        series = SymbolHealthKey(*subjects.parse_symbol_health(message.subject))
        if self._read_to > self._known.get(series, (None, 0))[1]:
            self._known[series] = (_decoded(message.subject, message.data), self._read_to)


def _decoded(subject: str, body: bytes) -> SymbolHealth | None:
    try:
        return decode(body, SymbolHealth)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Rather a call too many than a symbol that is never asked for again.
        log.warning("symbol_health_malformed", subject=subject, error=str(error), action="taken for active")
        return None
