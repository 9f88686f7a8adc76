"""Runs in Postgres: what was planned, what became of each symbol, and which runs are over."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg
import msgspec

from contracts.run_events import Outcome, RunFinished, RunPlanned, RunResult

# A plan may come in parts, twice, and after its first results.
_PLANNED = """
INSERT INTO runs AS r (run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, wanted_at, deadline_at,
    missed_slots, planned, parts, parts_seen)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, ARRAY[$14::int])
ON CONFLICT (run_id, request_id) DO UPDATE SET parts_seen = r.parts_seen || excluded.parts_seen
WHERE NOT r.parts_seen @> excluded.parts_seen"""
_SYMBOLS = """
INSERT INTO results AS r (run_id, request_id, symbol, planned, resolved, rows, calls)
SELECT $1, $2, symbol, true, false, 0, 0 FROM (SELECT DISTINCT unnest($3::text[]) AS symbol) s ORDER BY symbol
ON CONFLICT (run_id, request_id, symbol) DO UPDATE SET planned = true WHERE NOT r.planned"""
# A merged or expired outcome gives way to a definite one, a definite one only to a later definite one.
_RESULTS = """
INSERT INTO results AS r (run_id, request_id, symbol, outcome, reason, message, provider, task, wanted_at, called_at, at, rows,
    calls, planned, resolved)
SELECT *, false, outcome <> 'merged' OR coalesce(called_at >= wanted_at, false)
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[],
    $10::timestamptz[], $11::timestamptz[], $12::int[], $13::int[])
    AS n (run_id, request_id, symbol, outcome, reason, message, provider, task, wanted_at, called_at, at, rows, calls)
ORDER BY run_id, request_id, symbol
ON CONFLICT (run_id, request_id, symbol) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,
    message = excluded.message, provider = excluded.provider, task = excluded.task, wanted_at = excluded.wanted_at,
    called_at = excluded.called_at, at = excluded.at, rows = excluded.rows, calls = excluded.calls, resolved = excluded.resolved
WHERE r.outcome IS NULL OR excluded.resolved AND NOT r.resolved
    OR excluded.outcome NOT IN ('merged', 'expired') AND (r.outcome IN ('merged', 'expired') OR excluded.at > r.at)"""
# A merged symbol is served by any run's call for the same task that began late enough, told of before or after it.
_RESOLVE = """
UPDATE results m SET resolved = true
WHERE m.outcome = 'merged' AND NOT m.resolved AND m.task = ANY ($1::text[])
    AND EXISTS (SELECT FROM results t WHERE t.task = m.task AND t.called_at >= m.wanted_at)
RETURNING m.run_id, m.request_id"""
_OPEN = "SELECT run_id, request_id FROM runs WHERE finished_at IS NULL"
_EXPIRE = """
UPDATE results s SET outcome = 'expired', resolved = true, at = now(), reason = 'deadline' FROM runs r
WHERE r.finished_at IS NULL AND r.deadline_at <= now() AND s.run_id = r.run_id AND s.request_id = r.request_id AND NOT s.resolved"""
_CLOSE = """
UPDATE runs r SET finished_at = now(),
    counts = (SELECT coalesce(jsonb_object_agg(outcome, n), '{}') FROM (SELECT outcome, count(*) AS n FROM results s
        WHERE s.run_id = r.run_id AND s.request_id = r.request_id AND outcome IS NOT NULL GROUP BY outcome) c),
    calls = (SELECT coalesce(jsonb_object_agg(provider, n), '{}') FROM (SELECT provider, sum(calls) AS n FROM results s
        WHERE s.run_id = r.run_id AND s.request_id = r.request_id AND calls > 0 AND provider IS NOT NULL GROUP BY provider) c)
FROM unnest($1::text[], $2::text[]) AS k (run_id, request_id)
WHERE r.run_id = k.run_id AND r.request_id = k.request_id AND r.finished_at IS NULL
    AND (r.deadline_at <= now() OR cardinality(r.parts_seen) >= r.parts) AND NOT EXISTS (
        SELECT FROM results s WHERE s.run_id = r.run_id AND s.request_id = r.request_id AND s.planned AND NOT s.resolved)
RETURNING r.*"""
_UNPUBLISHED = "SELECT * FROM runs WHERE finished_at IS NOT NULL AND published_at IS NULL ORDER BY finished_at LIMIT 1000"
_PUBLISHED = "UPDATE runs SET published_at = now() WHERE run_id = $1 AND request_id = $2 AND published_at IS NULL"

RunEvent = RunPlanned | RunResult


class RunKey(NamedTuple):
    """A run. Run ids begin again when the stream of requests is made anew; with the request's own id they are unique."""

    run_id: str
    request_id: str


class RunStore:
    """The run history. Two cachers may share the work: each statement that closes a run closes it once."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def write(self, events: Sequence[RunEvent]) -> list[RunFinished]:
        """Store these events and give the runs that are over with them."""
        keys = {RunKey(event.run_id, event.request_id) for event in events}
        results = [event for event in events if isinstance(event, RunResult)]
        async with self._pool.acquire(timeout=10) as connection, connection.transaction():
            for event in events:
                if isinstance(event, RunPlanned):
                    key = (event.run_id, event.request_id)
                    what = (event.job, event.lane, event.dataset, event.timeframe, event.slot_at)
                    when = (event.requested_at, event.wanted_at, event.deadline_at, event.missed_slots)
                    await connection.execute(_PLANNED, *key, *what, *when, event.planned, event.parts, event.part)
                    await connection.execute(_SYMBOLS, *key, event.symbols)
            for some in _each_key_once(results):
                await connection.execute(_RESULTS, *_columns(some))
        # After the commit: of two cachers that each write one half of what ends a run, the later sees both halves.
        tasks = list({result.task for result in results if result.task})
        resolved = await self._pool.fetch(_RESOLVE, tasks) if tasks else []
        return await self._close([*keys, *(RunKey(**dict(row)) for row in resolved)])

    async def sweep(self) -> list[RunFinished]:
        """Expire what is past its deadline; give the runs that are over with that, or were over and nobody was told."""
        untold = [_finished(row) for row in await self._pool.fetch(_UNPUBLISHED)]
        await self._pool.execute(_EXPIRE)
        return untold + await self._close([RunKey(**dict(row)) for row in await self._pool.fetch(_OPEN)])

    async def published(self, finished: RunFinished) -> None:
        """Remember that the bus knows."""
        await self._pool.execute(_PUBLISHED, finished.run_id, finished.request_id)

    async def _close(self, keys: Sequence[RunKey]) -> list[RunFinished]:
        if not keys:
            return []
        columns = [list(column) for column in zip(*sorted(set(keys)), strict=True)]
        return [_finished(row) for row in await self._pool.fetch(_CLOSE, *columns)]


def _each_key_once(results: Sequence[RunResult]) -> list[list[RunResult]]:
    """The results in groups that name a symbol of a run once, as one statement must; in each symbol's order."""
    groups: list[dict[tuple[str, str, str], RunResult]] = []
    for result in results:
        key = (result.run_id, result.request_id, result.symbol)
        group = next((group for group in groups if key not in group), None)
        if group is None:
            groups.append(group := {})
        group[key] = result
    return [list(group.values()) for group in groups]


def _columns(results: Sequence[RunResult]) -> list[list[object]]:
    names = ("run_id", "request_id", "symbol", "outcome", "reason", "message", "provider", "task", "wanted_at", "called_at", "at")
    return [[getattr(result, name) for result in results] for name in (*names, "rows", "calls")]


def _finished(run: asyncpg.Record) -> RunFinished:
    return RunFinished(
        run_id=run["run_id"],
        request_id=run["request_id"],
        job=run["job"],
        slot_at=run["slot_at"],
        planned=run["planned"],
        counts=msgspec.json.decode(run["counts"], type=dict[Outcome, int]),
        calls=msgspec.json.decode(run["calls"], type=dict[str, int]),
        started_at=run["requested_at"],
        finished_at=run["finished_at"],
    )
