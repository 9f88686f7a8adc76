"""Reads from PostgreSQL other than price documents, through the views for readers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg

from contracts.price_events import BAR_COLUMN_NAMES
from services.gateway.errors import Problem
from services.runtime.prices.bar_columns import listed
from services.runtime.prices.read_postgres import Connection, read_bars

EVER = datetime(1600, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_FREE_WITHIN_S = 5.0
_LONGEST_S = 600.0
SERVER_SETTINGS = {
    "application_name": "quotebus-gateway",
    "default_transaction_read_only": "on",
    "jit": "off",
    "timezone": "UTC",
}
# A line has its instant as JSON writes it, to the microsecond.
_BARS = f"""
SELECT symbol, timeframe, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, {listed("{0}")},
    currency, basis, final, provider, feed
FROM price_bars b
WHERE symbol = $1 AND timeframe = $2 AND basis = $3 AND feed = $4 AND b.at >= $5 AND b.at < $6
ORDER BY b.at"""
_CSV = f"""
SELECT symbol, timeframe, at, {listed("{0}")}, currency, basis, final::text AS final, provider, feed
FROM ({_BARS}) line"""
_NDJSON = f"SELECT row_to_json(line)::text FROM ({_BARS}) line"
_PAGE = f"""
SELECT json_build_object('symbol', $1::text, 'timeframe', $2::text, 'basis', $3::text, 'feed', $4::text, 'currency', max(currency),
    {listed("'{0}', coalesce(json_agg({0}), '[]')", ("at", *BAR_COLUMN_NAMES, "final", "provider"))},
    'next_start', CASE WHEN count(*) = $7 THEN max(at)::timestamptz + interval '1 microsecond' END)::text
FROM ({_BARS} LIMIT $7) page"""
_SERIES = """
SELECT DISTINCT basis, feed FROM price_observations WHERE symbol = $1 AND dataset = 'bars' AND timeframe = $2 AND rows > 0
ORDER BY basis, feed"""
_COVERAGE = """
SELECT symbol, dataset, timeframe, basis, feed, count(*) AS observations, count(*) FILTER (WHERE rows = 0) AS empty,
    max(observed_at) AS observed_at, max(fetched_at) AS fetched_at,
    (SELECT coalesce(array_agg(lower(r) ORDER BY r), '{}') FROM unnest(range_agg(span)) r) AS covered_from,
    (SELECT coalesce(array_agg(upper(r) ORDER BY r), '{}') FROM unnest(range_agg(span)) r) AS covered_to
FROM (SELECT *, tstzrange(at_from, at_to) AS span FROM price_observations
    WHERE symbol = ANY ($1::text[]) AND ($2::text IS NULL OR dataset = $2) AND ($3::text IS NULL OR timeframe = $3)) o
GROUP BY symbol, dataset, timeframe, basis, feed ORDER BY symbol, dataset, timeframe, basis, feed"""
_RUNS = """
SELECT run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, deadline_at, finished_at, missed_slots, planned,
    counts::text, calls::text, reasons::text, refused
FROM run_history
WHERE ($1::text IS NULL OR job = $1) AND ($2::text IS NULL OR run_id = $2) AND requested_at < $3
ORDER BY requested_at DESC LIMIT $4"""
_MISSED = """
SELECT job, slot_at, reason FROM run_slots
WHERE state = 'missed' AND ($1::text IS NULL OR job = $1) AND slot_at < $2 ORDER BY slot_at DESC LIMIT $3"""
_RESULTS = """
SELECT symbol, outcome, reason, message, provider, called_at, at, rows, calls FROM run_results WHERE run_id = $1 AND request_id = $2
ORDER BY symbol"""

Row = Mapping[str, Any]
Write = Callable[[bytes], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class BarsWanted:
    """Bars of one series: its symbol, timeframe, basis and feed, from `start` up to and without `end`."""

    symbol: str
    timeframe: str
    basis: str
    feed: str
    start: datetime
    end: datetime

    @property
    def values(self) -> tuple[object, ...]:
        return self.symbol, self.timeframe, self.basis, self.feed, self.start, self.end


class Store:
    """The database, for readers. Long downloads never take the last connection."""

    def __init__(self, pool: asyncpg.Pool, connections: int) -> None:
        self._pool = pool
        self._downloads = asyncio.Semaphore(max(1, connections - 1))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for one answer.

        Raises:
            Problem: 503, if there is none or it fails.
        """
        try:
            async with self._pool.acquire(timeout=_FREE_WITHIN_S) as connection:
                yield connection
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            raise Problem(503, "not_provisioned", "the database is not as this version needs it: run `quotebus migrate`") from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            said = str(error) or "no answer in time"
            what = f"PostgreSQL does not answer: {said}: see that it runs and that `dsn` of [postgres] is right, then ask again"
            raise Problem(503, "postgres_unavailable", what) from None

    async def series(self, symbol: str, timeframe: str) -> list[tuple[str, str]]:
        """Basis and feed of every series of a symbol's bars, the one that speaks for the symbol first."""
        async with self.connection() as connection:
            there = [(row["basis"], row["feed"]) for row in await connection.fetch(_SERIES, symbol, timeframe)]
            if len(there) > 1:
                speaking = {(bars.basis, bars.feed) for bars in await read_bars(connection, [(symbol, timeframe)], 1)}
                there.sort(key=lambda each: each not in speaking)
            return there

    async def page(self, wanted: BarsWanted, limit: int) -> bytes:
        """The first `limit` bars as one columnar document, oldest first. `next_start`: where to go on, null at the end."""
        async with self.connection() as connection:
            text: str = await connection.fetchval(_PAGE, *wanted.values, limit)
            return text.encode()

    async def download(self, wanted: BarsWanted, form: Literal["csv", "ndjson"], write: Write) -> None:
        """All bars, oldest first, in pieces as the database gives them; none is asked for before the last one is written."""
        async with self._downloads, self.connection() as connection:
            if form == "csv":
                await connection.copy_from_query(_CSV, *wanted.values, output=write, timeout=_LONGEST_S, format="csv", header=True)
                return
            # Two characters that JSON never holds: so nothing of it is quoted.
            await connection.copy_from_query(
                _NDJSON, *wanted.values, output=write, timeout=_LONGEST_S, format="csv", quote="\x01", delimiter="\x02"
            )

    async def coverage(self, symbols: Sequence[str], dataset: str | None, timeframe: str | None) -> Sequence[Row]:
        """Of each series of these symbols what was asked and seen."""
        async with self.connection() as connection:
            return await _rows(connection, _COVERAGE, symbols, dataset, timeframe)

    async def runs(self, job: str | None, before: datetime | None, limit: int) -> Sequence[Row]:
        """The newest runs requested before an instant, the newest first."""
        async with self.connection() as connection:
            return await _rows(connection, _RUNS, job, None, before or EVER[1], limit)

    async def missed(self, job: str | None, before: datetime | None, limit: int) -> Sequence[Row]:
        """The newest slots before an instant that got no run, the newest first."""
        async with self.connection() as connection:
            return await _rows(connection, _MISSED, job, before or EVER[1], limit)

    async def run(self, run_id: str) -> tuple[Row, Sequence[Row]] | None:
        """A run, and what became of each symbol of it."""
        async with self.connection() as connection:
            # Its number may come again if the stream was made anew: the newest is meant.
            runs = await _rows(connection, _RUNS, None, run_id, EVER[1], 1)
            return (runs[0], await _rows(connection, _RESULTS, run_id, runs[0]["request_id"])) if runs else None


async def _rows(connection: Connection, statement: str, *values: object) -> Sequence[Row]:
    return [dict(row) for row in await connection.fetch(statement, *values)]
