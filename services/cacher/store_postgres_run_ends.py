"""The end of a run in Postgres: which of these runs are over, and what they came to."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg
import msgspec

from contracts.run_events import MAX_FAILED_NAMED, RunFinished

# What a part that never came would have named has expired too.
_CLOSE = """
WITH closing AS (
    SELECT r.run_id, r.request_id, r.planned FROM runs r JOIN unnest($1::text[], $2::text[]) AS k (run_id, request_id)
        USING (run_id, request_id)
    WHERE r.finished_at IS NULL AND (r.deadline_at <= now() OR cardinality(r.parts_seen) >= r.parts) AND NOT EXISTS (
        SELECT FROM results s WHERE s.run_id = r.run_id AND s.request_id = r.request_id AND s.planned AND NOT s.resolved)
), told AS (
    SELECT c.*, s.outcome, s.reason, s.provider, s.calls, s.planned AS was_planned
    FROM closing c JOIN results s USING (run_id, request_id)
), by_reason AS (
    SELECT run_id, request_id, outcome, reason, count(*) AS n FROM told WHERE was_planned GROUP BY 1, 2, 3, 4
    UNION ALL SELECT run_id, request_id, 'expired', 'unannounced', planned - count(was_planned) FILTER (WHERE was_planned)
    FROM closing c LEFT JOIN (SELECT run_id, request_id, was_planned FROM told) t USING (run_id, request_id)
    GROUP BY 1, 2, planned HAVING planned > count(was_planned) FILTER (WHERE was_planned)
), by_outcome AS (
    SELECT run_id, request_id, outcome, sum(n) AS n, jsonb_object_agg(reason, n) FILTER (WHERE reason IS NOT NULL) AS reasons
    FROM by_reason GROUP BY 1, 2, 3
), outcomes AS (
    SELECT run_id, request_id, jsonb_object_agg(outcome, n) AS counts,
        jsonb_object_agg(outcome, reasons) FILTER (WHERE reasons IS NOT NULL) AS reasons
    FROM by_outcome GROUP BY 1, 2
), calls AS (
    SELECT run_id, request_id, jsonb_object_agg(provider, n) AS calls
    FROM (SELECT run_id, request_id, provider, sum(calls) AS n FROM told
        WHERE calls > 0 AND provider IS NOT NULL GROUP BY 1, 2, 3) p
    GROUP BY 1, 2
)
UPDATE runs r SET finished_at = now(), counts = coalesce(o.counts, '{}'), reasons = coalesce(o.reasons, '{}'),
    calls = coalesce(s.calls, '{}'), failed_symbols = ARRAY(SELECT symbol FROM results f WHERE f.run_id = r.run_id
        AND f.request_id = r.request_id AND f.planned AND f.outcome IN ('failed', 'expired') ORDER BY symbol LIMIT $3)
FROM closing c LEFT JOIN outcomes o USING (run_id, request_id) LEFT JOIN calls s USING (run_id, request_id)
WHERE r.run_id = c.run_id AND r.request_id = c.request_id AND r.finished_at IS NULL
RETURNING r.run_id, r.request_id"""
_FINISHED = "SELECT * FROM runs JOIN unnest($1::text[], $2::text[]) AS k (run_id, request_id) USING (run_id, request_id)"


class RunKey(NamedTuple):
    """A run. Run ids begin again when the stream of requests is made anew; with the request's own id they are unique."""

    run_id: str
    request_id: str


async def close_runs(pool: asyncpg.Pool, keys: Sequence[RunKey]) -> list[RunFinished]:
    """Close those of these runs that are over and still open; whoever else closes one at this moment, it is given once."""
    if not keys:
        return []
    return await read_finished(pool, [RunKey(**dict(row)) for row in await pool.fetch(_CLOSE, *_pairs(keys), MAX_FAILED_NAMED)])


async def read_finished(pool: asyncpg.Pool, keys: Sequence[RunKey]) -> list[RunFinished]:
    """What is to be told of these runs, which are over."""
    if not keys:
        return []
    return [_finished(row) for row in await pool.fetch(_FINISHED, *_pairs(keys))]


def _pairs(keys: Sequence[RunKey]) -> list[list[str]]:
    return [list(column) for column in zip(*sorted(set(keys)), strict=True)]


def _finished(run: asyncpg.Record) -> RunFinished:
    return RunFinished(
        run_id=run["run_id"],
        request_id=run["request_id"],
        job=run["job"],
        slot_at=run["slot_at"],
        planned=run["planned"],
        counts=msgspec.json.decode(run["counts"], type=dict[str, int]),
        reasons=msgspec.json.decode(run["reasons"] or "{}", type=dict[str, dict[str, int]]),
        calls=msgspec.json.decode(run["calls"], type=dict[str, int]),
        started_at=run["requested_at"],
        finished_at=run["finished_at"],
        lane=run["lane"],
        dataset=run["dataset"],
        timeframe=run["timeframe"],
        missed_slots=run["missed_slots"],
        failed_symbols=run["failed_symbols"] or [],
        refused=run["refused"],
    )
