"""Postgres, the truth: one transaction for each batch of price events, in which only what changed is written."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import asyncpg

from contracts.price_events import PriceBars, PriceCorrected, PriceQuarantined
from services.cacher.bar_slices import LockedBars
from services.cacher.read_event import Observed, SeriesKey
from services.cacher.store_postgres_bars import BarsWriter
from services.cacher.store_postgres_facts import WRITERS, write_quarantined
from services.runtime.prices.read_postgres import Connection

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
SESSION = {
    "application_name": "quotebus-cacher",
    "client_min_messages": "warning",
    "jit": "off",
    "temp_buffers": "32MB",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a batch did to a series: its newest observation before and after, and whether anything but that changed."""

    before: datetime | None
    newest: datetime
    changed: bool


@dataclass(slots=True)
class Written:
    """What a batch did. `corrections`: ids of the final bars that changed, not yet published."""

    seen: dict[SeriesKey, Seen] = field(default_factory=dict)
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

    async def write(self, events: Sequence[Observed | PriceQuarantined]) -> Written:
        """Store these events and say what changed. All of them or, when it raises, none."""
        # The oldest first: what is newer then meets what it replaces.
        observed = sorted((e for e in events if isinstance(e, Observed)), key=lambda o: o.event.observed_at)
        await self._bars.prepare([o.event for o in observed if isinstance(o.event, PriceBars)])
        written = Written()
        async with self._pool.acquire(timeout=10) as connection, connection.transaction():
            for event in events:
                if isinstance(event, PriceQuarantined):
                    await write_quarantined(connection, event)
            if observed:
                series = await _locked(connection, observed)
                changed = await self._write_observed(connection, observed, series, written)
                written.seen = _seen(observed, series, changed)
        return written

    async def unpublished(self, ids: Sequence[int] | None = None) -> list[PriceCorrected]:
        """Corrections that nobody has been told of: these, or up to a thousand of all."""
        rows = await self._pool.fetch(_UNPUBLISHED, ids)
        return [PriceCorrected(**dict(row)) for row in rows]

    async def published(self, ids: Sequence[int]) -> None:
        """Remember that these corrections are on the bus."""
        await self._pool.execute(_PUBLISHED, ids)

    async def _write_observed(
        self, connection: Connection, observed: Sequence[Observed], series: dict[SeriesKey, _Series], written: Written
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


async def _locked(connection: Connection, observed: Sequence[Observed]) -> dict[SeriesKey, _Series]:
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
    connection: Connection, observed: Sequence[Observed], series: dict[SeriesKey, _Series]
) -> set[SeriesKey]:
    """Keep each series' currency as its newest event says, and give the series where that is news."""
    said = {each.key: each.event.currency for each in observed if each.event.currency}
    news = {key for key, currency in said.items() if currency != series[key].currency}
    if news:
        await connection.execute(_CURRENCIES, [series[key].id for key in news], [said[key] for key in news])
    return news


async def _observe(connection: Connection, observed: Sequence[Observed], series: dict[SeriesKey, _Series]) -> None:
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


def _seen(observed: Sequence[Observed], series: dict[SeriesKey, _Series], changed: set[SeriesKey]) -> dict[SeriesKey, Seen]:
    newest: dict[SeriesKey, datetime] = {}
    for each in observed:
        newest[each.key] = max(each.event.observed_at, newest.get(each.key) or series[each.key].newest or each.event.observed_at)
    return {key: Seen(series[key].newest, at, key in changed) for key, at in newest.items()}
