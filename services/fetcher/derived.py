"""What is derived from what is stored, at no call: implied volatility from option chains. For the planner and its tasks a provider
like any other, so that jobs, lanes, runs and readers have it as they have the rest; but it asks PostgreSQL instead of a vendor."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from typing import ClassVar

import asyncpg
import msgspec
import nats.errors
from nats.js.errors import APIError

from contracts import subjects
from contracts.price_events import PriceIv
from services.fetcher.implied_volatility import ahead, smiles, standing
from services.fetcher.provider import Answer, Call, Http, Profile, ProviderError, Verdict, refuse_unoffered
from services.fetcher.rows import Contract
from services.runtime.bus import Bus
from services.runtime.postgres import POSTGRES_TROUBLE
from services.runtime.price_document import ChainDocument
from services.runtime.read_postgres import Connection, read_chains
from services.runtime.topology import CACHER

PROFILE = Profile(
    name="derived",
    base_url="https://derived.invalid",
    offers={"iv": ()},
    basis="raw",
    feed="derived",
    symbols_per_call={"iv": 20},
    secrets=(),
    asks_nobody=True,
)
STORED_WITHIN_S = 10.0
_LOOK_AGAIN_S = 0.05
_CONNECT_S, _STATEMENT_S = 5, 30
_COLUMNS = Contract._fields
_HISTORY = """
SELECT w.symbol, v.iv_30d
FROM unnest($1::text[], $2::text[], $3::date[]) AS w (symbol, feed, day)
JOIN instruments i ON i.symbol = w.symbol
JOIN implied_volatilities v ON v.instrument = i.id AND v.feed = w.feed AND v.date < w.day AND v.date >= w.day - 365
WHERE v.iv_30d IS NOT NULL"""


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

    async def fetch(self, call: Call, http: Http, now: datetime) -> Answer:  # noqa: ARG002  (there is nobody to call)
        """See `Provider.fetch`. A symbol's event is as of its newest chain and of the chain's feed; empty where there is none."""
        refuse_unoffered(PROFILE, call)
        try:
            await self._all_is_stored()
            connection = await asyncpg.connect(self._dsn, timeout=_CONNECT_S, command_timeout=_STATEMENT_S)
            try:
                events = await self._derive(connection, call.symbols, now)
            finally:
                await connection.close(timeout=2)
        except POSTGRES_TROUBLE as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise ProviderError(Verdict.SERVER_ERROR, f"derived: PostgreSQL cannot be read: {why}") from error
        missing = set(call.symbols) - {event.symbol for event in events}
        return Answer([*events, *(_nothing(symbol, now) for symbol in sorted(missing))])

    async def _derive(self, connection: Connection, symbols: Sequence[str], now: datetime) -> list[PriceIv]:
        events = []
        for chain in await read_chains(connection, symbols):
            events.append(_volatility(chain, self._rate, now))
            # Two thousand contracts are a while's work: others want the loop too.
            await asyncio.sleep(0)
        before = await _history(connection, events)
        return [_ranked(event, before[event.symbol]) for event in events]

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


def day_of(event: PriceIv) -> date:
    """The day whose volatility it tells, UTC: that of its newest quote."""
    return (event.at or event.observed_at).date()


def _volatility(chain: ChainDocument, rate: float, now: datetime) -> PriceIv:
    as_of = datetime.fromisoformat(chain.as_of)
    # On a Sunday the quotes are Friday's, with two days more to live.
    at = max(filter(None, chain.at), default=None)
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in zip(*(getattr(chain, name) for name in _COLUMNS), strict=True)]
    found = smiles((Contract(**{**row, "expiry": date.fromisoformat(row["expiry"])}) for row in rows), at or as_of, rate)
    puts, calls = (ahead([(s.years, getattr(s, side)) for s in found]) for side in ("put_25d", "call_25d"))
    told = [smile for smile in found if smile.contracts]
    return PriceIv(
        symbol=chain.symbol,
        provider=PROFILE.name,
        chain_provider=chain.provider,
        feed=chain.feed,
        currency=chain.currency,
        observed_at=as_of,
        fetched_at=now,
        at=at,
        iv_30d=ahead([(smile.years, smile.iv) for smile in found]),
        skew_25d=None if puts is None or calls is None else puts - calls,
        expiry=[smile.expiry for smile in told],
        forward=[smile.forward for smile in told],
        iv=[smile.iv for smile in told],
        contracts=[smile.contracts for smile in told],
    )


def _nothing(symbol: str, now: datetime) -> PriceIv:
    return PriceIv(
        symbol=symbol,
        provider=PROFILE.name,
        feed=PROFILE.feed,
        observed_at=now,
        fetched_at=now,
        expiry=[],
        forward=[],
        iv=[],
        contracts=[],
    )


async def _history(connection: Connection, events: Sequence[PriceIv]) -> dict[str, list[float]]:
    """By symbol, the volatility of each day in the year before that of its event."""
    columns = [[event.symbol for event in events], [event.feed for event in events], [day_of(event) for event in events]]
    before: dict[str, list[float]] = defaultdict(list)
    for row in await connection.fetch(_HISTORY, *columns):
        before[row["symbol"]].append(row["iv_30d"])
    return before


def _ranked(event: PriceIv, before: Sequence[float]) -> PriceIv:
    place = standing(event.iv_30d, before)
    return msgspec.structs.replace(event, iv_rank=place.rank, iv_percentile=place.percentile, history_days=len(before))
