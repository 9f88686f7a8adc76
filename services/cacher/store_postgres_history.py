"""What is left of runs: slots that had none, and how long all of it is kept."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from contracts.run_events import RunMissed

RUNS_AT_ONCE = 50
_MISSED = """
WITH told AS (
    INSERT INTO missed_slots (job, slot_at, reason, told_at)
    SELECT DISTINCT ON (job, slot_at) * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[])
        AS n (job, slot_at, reason, told_at) ORDER BY job, slot_at
    ON CONFLICT (job, slot_at) DO NOTHING RETURNING reason)
SELECT reason, count(*) AS n FROM told GROUP BY reason"""
# A few runs at a time, so that no statement holds thousands of rows; another cacher's are passed over. One of which nobody was
# told yet stays.
_DELETE_RUNS = """
WITH old AS (SELECT run_id, request_id FROM runs WHERE requested_at < $1 AND published_at IS NOT NULL
        ORDER BY requested_at LIMIT $2 FOR UPDATE SKIP LOCKED),
    results_gone AS (DELETE FROM results s USING old WHERE s.run_id = old.run_id AND s.request_id = old.request_id)
DELETE FROM runs r USING old WHERE r.run_id = old.run_id AND r.request_id = old.request_id"""
_DELETE_MISSED = "DELETE FROM missed_slots WHERE slot_at < $1"


class HistoryStore:
    """Slots without a run, and the end of what is old."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def write_missed(self, events: Sequence[RunMissed]) -> dict[str, int]:
        """Store the slots of these events; give how many were not known yet, by reason."""
        rows = [(event.job, slot, event.reason, event.at) for event in events for slot in event.slots]
        if not rows:
            return {}
        columns = [list(column) for column in zip(*rows, strict=True)]
        return {row["reason"]: row["n"] for row in await self._pool.fetch(_MISSED, *columns)}

    async def forget(self, before: datetime) -> int:
        """Delete runs, results and missed slots from before that instant; give how many runs. Others may do so at the same time."""
        await self._pool.execute(_DELETE_MISSED, before)
        gone = 0
        while some := int((await self._pool.execute(_DELETE_RUNS, before, RUNS_AT_ONCE)).split()[-1]):
            gone += some
        return gone
