"""Runs in Postgres: what was planned, what became of each symbol, and which runs are over."""

from collections.abc import Sequence

import asyncpg

from contracts.run_events import RunFinished, RunPlanned, RunResult
from services.cacher.store_postgres_run_ends import RunKey, close_runs, read_finished
from services.runtime.prices.read_postgres import Connection

# A plan may come in parts, twice, and after its first results.
_PLANNED = """
INSERT INTO runs AS r (run_id, request_id, job, lane, dataset, timeframe, slot_at, requested_at, wanted_at, deadline_at,
    missed_slots, planned, parts, parts_seen, range_start, range_end, provider, refused)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, ARRAY[$14::int], $15, $16, $17, $18)
ON CONFLICT (run_id, request_id) DO UPDATE SET parts_seen = r.parts_seen || excluded.parts_seen
WHERE NOT r.parts_seen @> excluded.parts_seen"""
_SYMBOLS = """
INSERT INTO results AS r (run_id, request_id, symbol, planned, resolved, rows, calls)
SELECT $1, $2, symbol, true, false, 0, 0 FROM (SELECT DISTINCT unnest($3::text[]) AS symbol) s ORDER BY symbol
ON CONFLICT (run_id, request_id, symbol) DO UPDATE SET planned = true WHERE NOT r.planned"""
# A symbol has one outcome. `merged` and `expired` give way to a definite one, a definite one only to a later one: a crash between
# result and acknowledgement, or a retried dead letter, tells it twice.
_RESULTS = """
INSERT INTO results AS r (run_id, request_id, symbol, outcome, reason, message, provider, task, wanted_at, called_at, at, rows,
    calls, planned, resolved)
SELECT *, false, true
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[],
    $10::timestamptz[], $11::timestamptz[], $12::int[], $13::int[])
    AS n (run_id, request_id, symbol, outcome, reason, message, provider, task, wanted_at, called_at, at, rows, calls)
ORDER BY run_id, request_id, symbol
ON CONFLICT (run_id, request_id, symbol) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,
    message = excluded.message, provider = excluded.provider, task = excluded.task, wanted_at = excluded.wanted_at,
    called_at = excluded.called_at, at = excluded.at, rows = excluded.rows, calls = excluded.calls, resolved = true
WHERE r.outcome IS NULL OR NOT r.resolved
    OR excluded.outcome NOT IN ('merged', 'expired') AND (r.outcome IN ('merged', 'expired') OR excluded.at > r.at)"""
_OPEN = "SELECT run_id, request_id FROM runs WHERE finished_at IS NULL"
_EXPIRE = """
UPDATE results s SET outcome = 'expired', resolved = true, at = now(), reason = 'deadline' FROM runs r
WHERE r.finished_at IS NULL AND r.deadline_at <= now() AND s.run_id = r.run_id AND s.request_id = r.request_id AND NOT s.resolved"""
_UNPUBLISHED = """
SELECT run_id, request_id FROM runs WHERE finished_at IS NOT NULL AND published_at IS NULL ORDER BY finished_at LIMIT 1000"""
_PUBLISHED = "UPDATE runs SET published_at = now() WHERE run_id = $1 AND request_id = $2 AND published_at IS NULL RETURNING true"

_STORED = (
    "run_id", "request_id", "symbol", "outcome", "reason", "message", "provider", "task", "wanted_at", "called_at", "at", "rows",
    "calls",
)  # fmt: skip
RunEvent = RunPlanned | RunResult


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
                    await _write_plan(connection, event)
            for some in _each_key_once(results):
                await connection.execute(_RESULTS, *_columns(some))
        # After the commit: of two cachers that each write one half of what ends a run, the later sees both halves.
        return await close_runs(self._pool, list(keys))

    async def sweep(self) -> list[RunFinished]:
        """Expire what is past its deadline; give the runs that are over with that, or were over and nobody was told."""
        untold = [RunKey(**dict(row)) for row in await self._pool.fetch(_UNPUBLISHED)]
        await self._pool.execute(_EXPIRE)
        over = await close_runs(self._pool, [RunKey(**dict(row)) for row in await self._pool.fetch(_OPEN)])
        return await read_finished(self._pool, untold) + over

    async def published(self, finished: RunFinished) -> bool:
        """Remember that the bus knows; whether it is the first time."""
        return bool(await self._pool.fetchval(_PUBLISHED, finished.run_id, finished.request_id))


async def _write_plan(connection: Connection, event: RunPlanned) -> None:
    key = (event.run_id, event.request_id)
    what = (event.job, event.lane, event.dataset, event.timeframe, event.slot_at)
    when = (event.requested_at, event.wanted_at, event.deadline_at, event.missed_slots)
    size, wish = (event.planned, event.parts, event.part), (event.start, event.end, event.provider)
    await connection.execute(_PLANNED, *key, *what, *when, *size, *wish, event.refused)
    await connection.execute(_SYMBOLS, *key, event.symbols)


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
    return [[getattr(result, name) for result in results] for name in _STORED]
