"""What commands read of runs from PostgreSQL, by the views that are made for readers."""

from datetime import datetime
from typing import Any

from services.runtime.prices.read_postgres import Connection

FAILED = ("failed", "expired")


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
    """What became of each symbol of a run; an outcome of none while nothing is known."""
    rows = await connection.fetch(
        "SELECT symbol, outcome, reason, provider, rows, calls, called_at, at, message FROM run_results"
        " WHERE run_id = $1 AND request_id = $2 ORDER BY symbol",
        run_id,
        request_id,
    )
    return [dict(row) for row in rows]


async def oldest_going(connection: Connection) -> datetime | None:
    """When the oldest run that goes on was asked for."""
    found: datetime | None = await connection.fetchval("SELECT min(requested_at) FROM run_history WHERE finished_at IS NULL")
    return found
