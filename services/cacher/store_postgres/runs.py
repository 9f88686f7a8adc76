"""Run history: opens, updates and closes runs, and deletes them when they are past retention."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg
import msgspec
import structlog

from contracts.run_events import MAX_FAILED_NAMED, RunFinished, RunMissed, RunPlanned, RunResult
from services.runtime.postgres import POSTGRES_UNAVAILABLE
from services.runtime.prices.read_postgres import Connection

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

EVERY_S = 3600.0

log = structlog.get_logger()


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
    """Read the `RunFinished` events of these finished runs."""
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

    async def delete_before(self, before: datetime) -> int:
        """Delete runs, results and missed slots from before that instant; give how many runs. Others may do so at the same time."""
        await self._pool.execute(_DELETE_MISSED, before)
        gone = 0
        while some := int((await self._pool.execute(_DELETE_RUNS, before, RUNS_AT_ONCE)).split()[-1]):
            gone += some
        return gone


async def sweep_history(store: HistoryStore, keep_days: int, every_s: float = EVERY_S) -> None:
    """Delete what is older than `keep_days`, at once and then every hour; runs until cancelled."""
    while True:
        try:
            gone = await store.delete_before(datetime.now(UTC) - timedelta(days=keep_days))
            if gone:
                log.info("runs_forgotten", runs=gone, older_than_days=keep_days)
        except POSTGRES_UNAVAILABLE as error:
            log.debug("runs_not_forgotten", error=str(error) or type(error).__name__)
        await asyncio.sleep(every_s)
