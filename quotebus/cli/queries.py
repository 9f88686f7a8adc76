"""SQL queries of the commands: prices and run history."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.runtime.prices.bar_columns import listed
from services.runtime.prices.read_postgres import Connection

_BATCH = 2000
_EVER = datetime(1600, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

FAILED = ("failed", "expired")


@dataclass(frozen=True)
class SeriesWanted:
    """One series of bars; rows of two are never mixed. `start` is the first instant that is wanted, `end` the first that is not."""

    symbol: str
    timeframe: str
    basis: str
    feed: str
    start: datetime | None = None
    end: datetime | None = None


async def series_of(connection: Connection, symbol: str, timeframe: str) -> list[tuple[str, str]]:
    """Basis and feed of every series of bars that there is of a symbol."""
    rows = await connection.fetch(
        "SELECT DISTINCT basis, feed FROM price_observations WHERE symbol = $1 AND dataset = 'bars' AND timeframe = $2 AND rows > 0"
        " ORDER BY basis, feed",
        symbol,
        timeframe,
    )
    return [(row["basis"], row["feed"]) for row in rows]


async def bars(connection: Connection, wanted: SeriesWanted) -> AsyncGenerator[dict[str, object], None]:
    """The bars of a series in order of time; a batch at a time is held in memory."""
    async with connection.transaction(readonly=True):
        found = connection.cursor(
            f"SELECT symbol, timeframe, at, {listed('{0}')}, currency, basis, final, provider, feed FROM price_bars"
            " WHERE symbol = $1 AND timeframe = $2 AND basis = $3 AND feed = $4 AND at >= $5 AND at < $6 ORDER BY at",
            wanted.symbol,
            wanted.timeframe,
            wanted.basis,
            wanted.feed,
            wanted.start or _EVER[0],
            wanted.end or _EVER[1],
            prefetch=_BATCH,
        )
        async for row in found:
            yield dict(row)


async def slots(connection: Connection, job: str | None, limit: int) -> list[dict[str, Any]]:
    """A row for each slot and each request by hand, of one job or all, the newest first; also where nothing ran.

    `counts`, `reasons` and `calls` are JSON text; none while a run goes on.
    """
    rows = await connection.fetch(
        "SELECT run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, finished_at, state, reason, planned,"
        " missed_slots, late_s, took_s, counts::text, reasons::text, calls::text FROM run_slots"
        " WHERE $1::text IS NULL OR job = $1 ORDER BY at DESC, run_id DESC LIMIT $2",
        job,
        limit,
    )
    return [dict(row) for row in rows]


async def run(connection: Connection, run_id: str) -> dict[str, Any] | None:
    """A run, in the keys of `slots` and with what asks the same again; none if there is none.

    Numbers begin again when the stream of requests is made anew: then the newest of this number.
    """
    row = await connection.fetchrow(
        "SELECT s.*, counts::text, reasons::text, calls::text, h.range_start, h.range_end, h.provider FROM run_slots s"
        " JOIN (SELECT run_id, request_id, range_start, range_end, provider FROM run_history WHERE run_id = $1"
        " ORDER BY requested_at DESC LIMIT 1) h USING (run_id, request_id)",
        run_id,
    )
    return dict(row) if row else None


async def results(connection: Connection, run_id: str, request_id: str) -> list[dict[str, Any]]:
    """Outcome of each symbol of a run; the outcome is None while it is unknown."""
    rows = await connection.fetch(
        "SELECT symbol, outcome, reason, provider, rows, calls, called_at, at, message FROM run_results"
        " WHERE run_id = $1 AND request_id = $2 ORDER BY symbol",
        run_id,
        request_id,
    )
    return [dict(row) for row in rows]


async def oldest_going(connection: Connection) -> datetime | None:
    """Request time of the oldest unfinished run."""
    found: datetime | None = await connection.fetchval("SELECT min(requested_at) FROM run_history WHERE finished_at IS NULL")
    return found
