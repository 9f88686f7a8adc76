"""Price writer: one transaction per batch of events, dispatched by dataset."""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceCorrected, PriceIv, PriceQuarantined, PriceQuote
from services.cacher.decode_event import DecodedEvent, SeriesKey
from services.cacher.store_postgres.bars import BarsWriter, LockedBars
from services.runtime.prices.read_postgres import Connection

_QUOTE = """
INSERT INTO quotes AS q (instrument, feed, provider, at, price, bid, ask, previous_close, volume, observed_at, fetched_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (instrument, feed) DO UPDATE SET provider = excluded.provider, at = excluded.at, price = excluded.price,
    bid = excluded.bid, ask = excluded.ask, previous_close = excluded.previous_close, volume = excluded.volume,
    observed_at = excluded.observed_at, fetched_at = excluded.fetched_at
WHERE q.observed_at < excluded.observed_at"""
_ACTIONS = """
INSERT INTO actions AS a (instrument, feed, provider, observed_at, date, kind, ordinal, ratio, amount)
SELECT $1, $2, $3, $4, * FROM unnest($5::date[], $6::text[], $7::int2[], $8::float8[], $9::float8[])
ON CONFLICT (instrument, date, kind, ordinal, feed) DO UPDATE
SET provider = excluded.provider, ratio = excluded.ratio, amount = excluded.amount, observed_at = excluded.observed_at
WHERE a.observed_at < excluded.observed_at AND (a.ratio, a.amount) IS DISTINCT FROM (excluded.ratio, excluded.amount)"""
_CHAIN = """
INSERT INTO chains AS c (instrument, feed, provider, observed_at, fetched_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (instrument, feed) DO UPDATE
SET provider = excluded.provider, observed_at = excluded.observed_at, fetched_at = excluded.fetched_at
WHERE c.observed_at < excluded.observed_at"""
_CONTRACTS = """
INSERT INTO chain_contracts AS c (instrument, feed, observed_at, contract, expiry, strike, "right", bid, ask, last, mark, volume,
    open_interest, iv, delta, gamma, theta, vega, at)
SELECT $1, $2, $3, * FROM unnest($4::text[], $5::date[], $6::float8[], $7::text[], $8::float8[], $9::float8[], $10::float8[],
    $11::float8[], $12::float8[], $13::float8[], $14::float8[], $15::float8[], $16::float8[], $17::float8[], $18::float8[],
    $19::timestamptz[])
ON CONFLICT (instrument, feed, contract) DO UPDATE SET expiry = excluded.expiry, strike = excluded.strike,
    "right" = excluded.right, bid = excluded.bid, ask = excluded.ask, last = excluded.last, mark = excluded.mark,
    volume = excluded.volume, open_interest = excluded.open_interest, iv = excluded.iv, delta = excluded.delta,
    gamma = excluded.gamma, theta = excluded.theta, vega = excluded.vega, at = excluded.at, observed_at = excluded.observed_at
WHERE c.observed_at < excluded.observed_at"""
_VOLATILITY = """
INSERT INTO implied_volatilities AS v (instrument, feed, provider, date, at, chain_provider, iv_30d, skew_25d, iv_rank,
    iv_percentile, history_days, expiry, forward, iv, contracts, observed_at, fetched_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (instrument, feed, date) DO UPDATE
SET provider = excluded.provider, at = excluded.at, chain_provider = excluded.chain_provider, iv_30d = excluded.iv_30d,
    skew_25d = excluded.skew_25d, iv_rank = excluded.iv_rank, iv_percentile = excluded.iv_percentile,
    history_days = excluded.history_days, expiry = excluded.expiry, forward = excluded.forward, iv = excluded.iv,
    contracts = excluded.contracts, observed_at = excluded.observed_at, fetched_at = excluded.fetched_at
WHERE v.observed_at < excluded.observed_at"""
_QUARANTINE = """
INSERT INTO quarantine (symbol, dataset, timeframe, provider, feed, fetched_at, request_id, run_id, ordinal, at, rule, row)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, ordinal, at, rule, row
FROM unnest($9::timestamptz[], $10::text[], $11::text[]) WITH ORDINALITY AS q (at, rule, row, ordinal)
ON CONFLICT DO NOTHING"""

_LOCK_SPACE = 0x71620001
_KEYS = """
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY
    AS k (symbol, dataset, timeframe, basis, feed, ordinal)
JOIN instruments i ON i.symbol = k.symbol"""
_FIND = f"""
SELECT k.ordinal, s.id, s.instrument, s.currency {_KEYS}
JOIN series s ON (s.instrument, s.dataset, s.timeframe, s.basis, s.feed) = (i.id, k.dataset, k.timeframe, k.basis, k.feed)"""
_CREATE_INSTRUMENTS = "INSERT INTO instruments (symbol) SELECT DISTINCT unnest($1::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
_CREATE_SERIES = f"""
INSERT INTO series (instrument, dataset, timeframe, basis, feed)
SELECT i.id, k.dataset, k.timeframe, k.basis, k.feed {_KEYS} ORDER BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING"""
_LOCK = "SELECT pg_advisory_xact_lock($1, id) FROM unnest($2::int[]) AS id"
_NEWEST = "SELECT id, (SELECT max(observed_at) FROM observations WHERE series = id) AS newest FROM unnest($1::int[]) AS id"
_OBSERVE = """
INSERT INTO observations (series, observed_at, at_from, at_to, fetched_at, rows, provider)
SELECT * FROM unnest($1::int[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::int[], $7::text[])
ON CONFLICT DO NOTHING"""
_CURRENCIES = (
    "UPDATE series SET currency = n.currency FROM unnest($1::int[], $2::text[]) AS n (id, currency) WHERE series.id = n.id"
)
_UNPUBLISHED = """
SELECT c.id AS correction_id, i.symbol, c.timeframe, c.basis, c.feed, c.provider, c.at, c.before, c.after, c.observed_at
FROM corrections c JOIN instruments i ON i.id = c.instrument
WHERE c.published_at IS NULL AND ($1::bigint[] IS NULL OR c.id = ANY ($1)) ORDER BY c.id LIMIT 1000"""
_PUBLISHED = "UPDATE corrections SET published_at = now() WHERE id = ANY ($1::bigint[]) AND published_at IS NULL"

# Every statement looks rows up by key, also while a table grows faster than its statistics: never read a whole table for it.
SERVER_SETTINGS = {
    "application_name": "quotebus-cacher",
    "client_min_messages": "warning",
    "jit": "off",
    "temp_buffers": "32MB",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


async def write_quote(connection: Connection, instrument: int, event: PriceQuote) -> None:
    """Keep the newest quote of each feed."""
    numbers = (event.price, event.bid, event.ask, event.previous_close, event.volume)
    await connection.execute(
        _QUOTE, instrument, event.feed, event.provider, event.at, *numbers, event.observed_at, event.fetched_at
    )  # fmt: skip


async def write_actions(connection: Connection, instrument: int, event: PriceActions) -> None:
    """Keep splits and dividends as the newest event tells each."""
    alike: Counter[tuple[object, str]] = Counter()
    ordinals = []
    for occasion in zip(event.date, event.kind, strict=True):
        ordinals.append(alike[occasion])
        alike[occasion] += 1
    columns = (event.date, event.kind, ordinals, event.ratio, event.amount)
    await connection.execute(_ACTIONS, instrument, event.feed, event.provider, event.observed_at, *columns)


async def write_chain(connection: Connection, instrument: int, event: PriceChain) -> None:
    """Keep the newest state of each contract. The parts of one chain share their `observed_at`, and so make one chain again."""
    await connection.execute(_CHAIN, instrument, event.feed, event.provider, event.observed_at, event.fetched_at)
    prices = (event.bid, event.ask, event.last, event.mark, event.volume, event.open_interest)
    greeks = (event.iv, event.delta, event.gamma, event.theta, event.vega)
    columns = (event.contract, event.expiry, event.strike, event.right, *prices, *greeks, event.at)
    await connection.execute(_CONTRACTS, instrument, event.feed, event.observed_at, *columns)


async def write_volatility(connection: Connection, instrument: int, event: PriceIv) -> None:
    """Keep the newest of each day. One without rows says nothing about the day."""
    if not event.expiry:
        return
    told = (event.iv_30d, event.skew_25d, event.iv_rank, event.iv_percentile, event.history_days)
    columns = (event.expiry, event.forward, event.iv, event.contracts)
    await connection.execute(
        _VOLATILITY, instrument, event.feed, event.provider, event.day, event.at, event.chain_provider, *told, *columns,
        event.observed_at, event.fetched_at,
    )  # fmt: skip


async def write_quarantined(connection: Connection, event: PriceQuarantined) -> None:
    """Keep rows that failed validation, as they came."""
    what = (event.symbol, event.dataset, event.timeframe or "", event.provider, event.feed, event.fetched_at)
    # A null character is the one thing that a text cannot hold.
    rules, rows = ([text.replace("\0", "\\0") for text in column] for column in (event.rule, event.row))
    await connection.execute(_QUARANTINE, *what, event.request_id, event.run_id, event.at, rules, rows)


# How each dataset is written, bars apart.
WRITERS: Mapping[str, Callable[[Connection, int, Any], Awaitable[None]]] = {
    "quote": write_quote,
    "chain": write_chain,
    "iv": write_volatility,
    "actions": write_actions,
}


@dataclass(frozen=True, slots=True)
class SeriesUpdate:
    """Change of a series by a batch: its newest observation before and after, and whether anything but that changed."""

    before: datetime | None
    newest: datetime
    changed: bool


@dataclass(slots=True)
class WriteResult:
    """Result of writing a batch. `corrections`: ids of the final bars that changed, not yet published."""

    updates: dict[SeriesKey, SeriesUpdate] = field(default_factory=dict)
    changed_bars: int = 0
    corrections: list[int] = field(default_factory=list)


class _Series(NamedTuple):
    id: int
    instrument: int
    currency: str | None
    newest: datetime | None = None


class PostgresStore:
    """Writes price events. Any number may write at once: each locks the series of its batch, in one order."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._bars = BarsWriter(pool)

    async def write(self, events: Sequence[DecodedEvent | PriceQuarantined]) -> WriteResult:
        """Store these events and say what changed. All of them or, when it raises, none."""
        # The oldest first: what is newer then meets what it replaces.
        observed = sorted((e for e in events if isinstance(e, DecodedEvent)), key=lambda o: o.event.observed_at)
        await self._bars.prepare([o.event for o in observed if isinstance(o.event, PriceBars)])
        written = WriteResult()
        async with self._pool.acquire(timeout=10) as connection, connection.transaction():
            for event in events:
                if isinstance(event, PriceQuarantined):
                    await write_quarantined(connection, event)
            if observed:
                series = await _locked(connection, observed)
                changed = await self._write_observed(connection, observed, series, written)
                written.updates = _seen(observed, series, changed)
        return written

    async def unpublished(self, ids: Sequence[int] | None = None) -> list[PriceCorrected]:
        """Corrections that nobody has been told of: these, or up to a thousand of all."""
        rows = await self._pool.fetch(_UNPUBLISHED, ids)
        return [PriceCorrected(**dict(row)) for row in rows]

    async def published(self, ids: Sequence[int]) -> None:
        """Remember that these corrections are on the bus."""
        await self._pool.execute(_PUBLISHED, ids)

    async def _write_observed(
        self, connection: Connection, observed: Sequence[DecodedEvent], series: dict[SeriesKey, _Series], written: WriteResult
    ) -> set[SeriesKey]:
        """Write the events and give the series whose content changed."""
        changed = {key for key in series if key.dataset != "bars"} | await _update_currencies(connection, observed, series)
        bars: list[LockedBars] = []
        begun: set[SeriesKey] = set()
        for each in observed:
            one = series[each.key]
            if each.key.dataset != "bars":
                await WRITERS[each.key.dataset](connection, one.instrument, each.event)
                continue
            newest = one.newest is None or each.event.observed_at >= one.newest
            first = one.newest is None and each.key not in begun
            begun.add(each.key)
            bars.append(LockedBars(each, one.instrument, one.id, first, newest))
        outcome = await self._bars.write(connection, bars)
        written.changed_bars, written.corrections = outcome.rows, outcome.corrections
        await _observe(connection, observed, series)
        return changed | {key for key, one in series.items() if one.id in outcome.series}


async def _locked(connection: Connection, observed: Sequence[DecodedEvent]) -> dict[SeriesKey, _Series]:
    """The series of these events, made where new, locked until the transaction ends, with their newest observation."""
    keys = sorted({each.key for each in observed})
    columns = [list(column) for column in zip(*keys, strict=True)]
    rows = await connection.fetch(_FIND, *columns)
    if len(rows) < len(keys):
        # Before any lock and in one order, so that two cachers that meet the same new symbols wait for each other only once.
        await connection.execute(_CREATE_INSTRUMENTS, columns[0])
        await connection.execute(_CREATE_SERIES, *columns)
        rows = await connection.fetch(_FIND, *columns)
    ids = sorted(row["id"] for row in rows)
    await connection.execute(_LOCK, _LOCK_SPACE, ids)
    newest = {row["id"]: row["newest"] for row in await connection.fetch(_NEWEST, ids)}
    return {keys[row["ordinal"] - 1]: _Series(row["id"], row["instrument"], row["currency"], newest[row["id"]]) for row in rows}


async def _update_currencies(
    connection: Connection, observed: Sequence[DecodedEvent], series: dict[SeriesKey, _Series]
) -> set[SeriesKey]:
    """Keep each series' currency as its newest event says, and give the series where that is news."""
    said = {each.key: each.event.currency for each in observed if each.event.currency}
    news = {key for key, currency in said.items() if currency != series[key].currency}
    if news:
        await connection.execute(_CURRENCIES, [series[key].id for key in news], [said[key] for key in news])
    return news


async def _observe(connection: Connection, observed: Sequence[DecodedEvent], series: dict[SeriesKey, _Series]) -> None:
    columns: dict[str, list[object]] = defaultdict(list)
    for each in observed:
        columns["series"].append(series[each.key].id)
        columns["observed_at"].append(each.event.observed_at)
        columns["at_from"].append(each.at_from)
        columns["at_to"].append(each.at_to)
        columns["fetched_at"].append(each.event.fetched_at)
        columns["rows"].append(each.rows)
        columns["provider"].append(each.event.provider)
    await connection.execute(_OBSERVE, *columns.values())


def _seen(
    observed: Sequence[DecodedEvent], series: dict[SeriesKey, _Series], changed: set[SeriesKey]
) -> dict[SeriesKey, SeriesUpdate]:
    newest: dict[SeriesKey, datetime] = {}
    for each in observed:
        newest[each.key] = max(each.event.observed_at, newest.get(each.key) or series[each.key].newest or each.event.observed_at)
    return {key: SeriesUpdate(series[key].newest, at, key in changed) for key, at in newest.items()}
