"""Provider of series derived from stored data, at no call: implied volatility from option chains, longer bars from shorter ones.

For the planner and its tasks a provider like any other, so that jobs, lanes, runs and readers have it as they have the rest; but
it asks PostgreSQL instead of a vendor. Why so, and how each is reckoned: decision 22.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar

import asyncpg
import msgspec
import nats.errors
from nats.js.errors import APIError

from contracts import subjects
from contracts.message import Timeframe
from contracts.price_events import BAR_COLUMN_NAMES, PriceBars, PriceEvent, PriceIv
from services.fetcher.adapter.events import Bar, EventBuilder
from services.fetcher.adapter.fields import LENGTHS, Unit, day_start
from services.fetcher.derived.implied_volatility import iv_of, with_rank
from services.fetcher.derived.resample import SOURCES, TimeRange, end_of, resample, start_of
from services.fetcher.provider import Answer, FetchCall, Http, Profile, ProviderError, Verdict, refuse_unoffered
from services.runtime.bus import Bus
from services.runtime.jetstream.topology import CACHER
from services.runtime.postgres import POSTGRES_UNAVAILABLE
from services.runtime.prices.document import is_real_flag
from services.runtime.prices.read_postgres import Connection, preferred_series, read_chains
from services.runtime.settings.model import DERIVED

PROFILE = Profile(
    name=DERIVED,
    base_url="https://derived.invalid",
    offers={"iv": (), "bars": tuple(SOURCES)},
    basis="raw",
    feed="derived",
    symbols_per_call={"iv": 20, "bars": 20},
    secrets=(),
    is_local=True,
    explicit_only=frozenset({"bars"}),
)
# Without a range, so many of the newest bars are made, and of what lies this far back at most.
LATEST = 60
REACH = {"1wk": timedelta(days=7 * (LATEST + 1)), "1mo": timedelta(days=31 * (LATEST + 1))}
INTRADAY_REACH = timedelta(days=14)
STORED_WITHIN_S = 10.0
_LOOK_AGAIN_S = 0.05
_CONNECT_S, _STATEMENT_S = 5, 30
_HISTORY = """
SELECT w.symbol, v.iv_30d
FROM unnest($1::text[], $2::text[], $3::date[]) AS w (symbol, feed, day)
JOIN instruments i ON i.symbol = w.symbol
JOIN implied_volatilities v ON v.instrument = i.id AND v.feed = w.feed AND v.date < w.day AND v.date >= w.day - 365
WHERE v.iv_30d IS NOT NULL"""
# The bounds stand in the text, so that the planner leaves out the tables of other months.
_BARS = f"""
SELECT at, {", ".join(BAR_COLUMN_NAMES)} FROM bars
WHERE instrument = $1 AND timeframe = '{{timeframe}}' AND basis = $2 AND feed = $3 AND at >= '{{start}}'
    AND at < '{{end}}' ORDER BY at"""
_SEEN = """
SELECT range_agg(tstzrange(at_from, at_to)) FROM observations
WHERE series = $1 AND at_from < at_to AND at_to > $2 AND at_from < $3"""


class Derived:
    """A provider that makes what it gives of what PostgreSQL holds. `rate`: interest without risk, a year's."""

    profile: ClassVar[Profile] = PROFILE

    def __init__(self, bus: Bus, dsn: str, rate: float) -> None:
        self._bus = bus
        self._dsn = dsn
        self._rate = rate

    def to_vendor(self, symbol: str) -> str:
        """The symbol itself."""
        return symbol

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:  # noqa: ARG002  (there is nobody to call)
        """See `Provider.fetch`. Events are as of what they are made of, and of its feed; what it cannot be made of is empty."""
        refuse_unoffered(PROFILE, call)
        try:
            await self._all_is_stored()
            connection = await asyncpg.connect(self._dsn, timeout=_CONNECT_S, command_timeout=_STATEMENT_S)
            try:
                events = await (_bars(connection, call, now) if call.timeframe else self._volatilities(connection, call, now))
            finally:
                await connection.close(timeout=2)
        except POSTGRES_UNAVAILABLE as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise ProviderError(Verdict.SERVER_ERROR, f"derived: PostgreSQL cannot be read: {why}") from error
        nothing = ProviderError(Verdict.EMPTY, "derived: nothing is stored to make it of")
        return Answer(events, dict.fromkeys(set(call.symbols) - {event.symbol for event in events}, nothing))

    async def _volatilities(self, connection: Connection, call: FetchCall, now: datetime) -> Sequence[PriceEvent]:
        events = []
        for chain in await read_chains(connection, call.symbols):
            events.append(iv_of(chain, PROFILE.name, self._rate, now))
            # Two thousand contracts are a while's work: others want the loop too.
            await asyncio.sleep(0)
        before = await _history(connection, events)
        return [with_rank(event, before[event.symbol]) for event in events]

    async def _all_is_stored(self) -> None:
        """Return when the cacher has stored what is on the bus by now: a job that follows another comes sooner than its rows."""
        clock = asyncio.get_running_loop().time
        until = clock() + STORED_WITHIN_S
        try:
            last = (await self._bus.js.stream_info(subjects.PRICES)).state.last_seq
            while waiting := await self._not_stored(last):
                if clock() > until:
                    problem = f"derived: {waiting} events wait to be stored: do the cacher and PostgreSQL work? `quotebus doctor`"
                    raise ProviderError(Verdict.SERVER_ERROR, problem)
                await asyncio.sleep(_LOOK_AGAIN_S)
        except (APIError, nats.errors.Error) as error:
            raise ProviderError(Verdict.SERVER_ERROR, f"derived: NATS does not say what is stored: {error!r}") from error

    async def _not_stored(self, last: int) -> int:
        info = await self._bus.js.consumer_info(subjects.PRICES, CACHER)
        waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        return 0 if floor >= last else waiting


async def _history(connection: Connection, events: Sequence[PriceIv]) -> dict[str, list[float]]:
    """By symbol, the volatility of each day in the year before that of its event."""
    columns = [[event.symbol for event in events], [event.feed for event in events], [event.day for event in events]]
    before: dict[str, list[float]] = defaultdict(list)
    for row in await connection.fetch(_HISTORY, *columns):
        before[row["symbol"]].append(row["iv_30d"])
    return before


async def _bars(connection: Connection, call: FetchCall, now: datetime) -> Sequence[PriceEvent]:
    timeframe = call.timeframe or "1d"
    there = await preferred_series(connection, [(symbol, source) for symbol in call.symbols for source in SOURCES[timeframe]])
    # Of several that it could be made of a real one, the freshest, the one with the fewest bars.
    there.sort(key=lambda each: (is_real_flag(each["feed"]), each["as_of"], -SOURCES[timeframe].index(each["timeframe"])))
    events: list[PriceEvent] = []
    for series in {each["symbol"]: each for each in there}.values():
        events += await _made_of(connection, series, call, now)
    return events


async def _made_of(connection: Connection, series: asyncpg.Record, call: FetchCall, now: datetime) -> list[PriceBars]:
    timeframe = call.timeframe or "1d"
    span = _span(call, timeframe, series["as_of"])
    query = _BARS.format(timeframe=series["timeframe"], start=span.start.isoformat(), end=span.end.isoformat())
    rows = [Bar(*row) for row in await connection.fetch(query, series["instrument"], series["basis"], series["feed"])]
    ranges = await connection.fetchval(_SEEN, series["series"], *span) or []
    seen = [TimeRange(each.lower, each.upper) for each in ranges]
    made = resample(rows, timeframe, seen)
    asked = EventBuilder(
        PROFILE, call, series["symbol"], now, Unit(series["currency"]), feed=series["feed"], basis=series["basis"],
        complete_until=min(seen[-1].end, series["as_of"]) if seen else None,
    )  # fmt: skip
    latest = made if call.start else made[-LATEST:]
    return [msgspec.structs.replace(event, observed_at=series["as_of"]) for event in asked.bars(latest)]


def _span(call: FetchCall, timeframe: Timeframe, as_of: datetime) -> TimeRange:
    """From when to when shorter bars are wanted: whole longer ones, also at the ends of the range."""
    if call.start is not None and call.end is not None:
        last = day_start(call.end) - timedelta(microseconds=1)
        return TimeRange(start_of(day_start(call.start), timeframe), end_of(start_of(last, timeframe), timeframe))
    reach = INTRADAY_REACH if timeframe in LENGTHS else REACH[timeframe]
    return TimeRange(start_of(as_of - reach, timeframe), end_of(start_of(as_of, timeframe), timeframe))
