"""How every symbol stands, shared by all fetchers: the last message of each subject of SYMBOLS, read up to the end when it matters.

There is nothing to subscribe to and nothing to lose in a reconnect: a reader goes on from the last message it has read, which costs
one request when there is no news. A writer's message is accepted only if it follows the one it knew, so that two fetchers that
ask for the same symbol at once count one failure.
"""

import asyncio
from datetime import UTC, datetime

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError
from prometheus_client import Counter

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import decode
from contracts.symbol_health import SymbolHealth
from services.fetcher.provider import ProviderError
from services.fetcher.served import last_served
from services.fetcher.symbol_health import ProbeRules, Series, after_answer, after_failure, is_asleep, series_of
from services.runtime.bus import Bus

WRONG_LAST_SEQUENCE = 10071
CHANGES = Counter("quotebus_symbol_changes_total", "Symbols whose health changed.", ["provider", "state"])

log = structlog.get_logger()


class SymbolStates:
    """The health of symbols as this fetcher knows it."""

    def __init__(self, bus: Bus, rules: ProbeRules) -> None:
        self._bus = bus
        self._rules = rules
        self._known: dict[Series, tuple[SymbolHealth | None, int]] = {}
        self._next = 1
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def refresh(self, max_age_s: float = 0.0) -> None:
        """Read what is new, unless that was done less than `max_age_s` ago.

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
            while await self._read_one():
                pass
            self._read_at = began

    def health(self, series: Series) -> SymbolHealth | None:
        """How a series stands; None when nothing was ever wrong with it."""
        health, _ = self._known.get(series, (None, 0))
        return health

    def asleep(self, series: Series) -> SymbolHealth | None:
        """The health of a series that is not worth a call now; None if it is."""
        health = self.health(series)
        return health if is_asleep(health, datetime.now(UTC)) else None

    def doubted(self, series: Series) -> bool:
        """Whether a call for it would be a probe."""
        health = self.health(series)
        return health is not None and health.state != "active"

    async def note(self, task: FetchTask, error: ProviderError | None) -> None:
        """Take a failed call, or without an error an answer, into account. Changes count once, whichever fetcher is quicker.

        Best effort: what the bus does not take now is found out by the next call.
        """
        try:
            await (self._failed(task, error) if error else self._answered(task))
        except (APIError, nats.errors.Error) as fault:
            log.debug("symbol_health_not_told", symbol=task.symbol, error=str(fault) or type(fault).__name__)

    async def _failed(self, task: FetchTask, error: ProviderError) -> None:
        series = series_of(task)
        told = after_failure(self.health(series), series, error, datetime.now(UTC), self._rules)
        if told is None:
            return
        if told.state == "unknown" and await self._had_prices(series):
            told = msgspec.structs.replace(told, state="delisted", since=self._since(series, told))
        await self._tell(series, told)

    async def _answered(self, task: FetchTask) -> None:
        series = series_of(task)
        if told := after_answer(self.health(series), datetime.now(UTC)):
            await self._tell(series, told)

    def _since(self, series: Series, told: SymbolHealth) -> datetime:
        known = self.health(series)
        return known.since if known and known.state == "delisted" else told.at

    async def _had_prices(self, series: Series) -> bool:
        if (known := self.health(series)) and known.state == "delisted":
            return True
        served = await last_served(self._bus, series.dataset, series.timeframe, [series.symbol])
        return series.symbol in served and served[series.symbol].provider == series.provider

    async def _tell(self, series: Series, told: SymbolHealth) -> None:
        _, sequence = self._known.get(series, (None, 0))
        headers = {"Nats-Expected-Last-Subject-Sequence": str(sequence)}
        try:
            ack = await self._bus.publish(series.subject, told, headers=headers)
        except APIError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
            # Another fetcher said it first, or the stream was made anew: what is there counts.
            self._known.pop(series, None)
            self._next = 1
            await self.refresh()
            return
        self._known[series] = (told, ack.seq)
        CHANGES.labels(told.provider, told.state).inc()
        log.info(
            "symbol_health", provider=told.provider, dataset=told.dataset, timeframe=told.timeframe, symbol=told.symbol,
            state=told.state, before=told.before, failures=told.failures, next_probe_at=told.next_probe_at, reason=told.message,
        )  # fmt: skip

    async def _read_one(self) -> bool:
        try:
            raw = await self._bus.js.get_msg(subjects.SYMBOLS, seq=self._next, subject=subjects.ALL_SYMBOL_HEALTH, next=True)
        except NotFoundError:
            return False
        subject, sequence = raw.subject or "", raw.seq or self._next
        self._next = sequence + 1
        series = Series(*subjects.parse_symbol_health(subject))
        if sequence > self._known.get(series, (None, 0))[1]:
            self._known[series] = (_decoded(subject, raw.data or b""), sequence)
        return True


def _decoded(subject: str, body: bytes) -> SymbolHealth | None:
    try:
        return decode(body, SymbolHealth)
    except (msgspec.MsgspecError, ValueError) as error:
        # Rather a call too many than a symbol that is never asked for again.
        log.warning("symbol_health_malformed", subject=subject, error=str(error), action="taken for active")
        return None
