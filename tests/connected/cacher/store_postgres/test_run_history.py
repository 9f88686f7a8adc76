"""The history of runs on a real Postgres: slots without a run, and how long all of it is kept."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from contracts.run_events import RunMissed, RunPlanned, RunResult
from services.cacher.migrate import SCHEMA, migrate, migrations
from services.cacher.store_postgres.prices import SERVER_SETTINGS
from services.cacher.store_postgres.runs import RUNS_AT_ONCE, HistoryStore, RunStore
from services.runtime.postgres import open_pool
from services.runtime.settings import PostgresSettings, Secret

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
SLOT = datetime(2024, 3, 4, 12, tzinfo=UTC)


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(postgres_url)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        yield pool


def missed(*hours: int, job: str = "eod", reason: str = "too_late") -> RunMissed:
    slots = [SLOT + timedelta(hours=hour) for hour in hours]
    return RunMissed(job=job, reason=reason, missed=len(slots), slots=slots, at=SLOT + DAY)


async def keep_run(pool: asyncpg.Pool, run_id: str, requested_at: datetime, *, over: bool = True, told: bool = True) -> None:
    store = RunStore(pool)
    plan = RunPlanned(
        run_id=run_id, request_id="r", job="eod", lane="live", dataset="bars", slot_at=requested_at - timedelta(seconds=2),
        requested_at=requested_at, wanted_at=requested_at, deadline_at=NOW + DAY, planned=1, symbols=["AAPL"],
    )  # fmt: skip
    result = RunResult(run_id=run_id, request_id="r", symbol="AAPL", outcome="refreshed", wanted_at=requested_at, at=requested_at)
    for finished in await store.write([plan, result] if over else [plan]):
        if told:
            await store.published(finished)


async def test_a_missed_slot_is_kept_once_however_often_it_is_told(pool: asyncpg.Pool) -> None:
    history = HistoryStore(pool)
    assert await history.write_missed([missed(1, 2), missed(2, 3, reason="caught_up")]) == {"too_late": 2, "caught_up": 1}
    assert await history.write_missed([missed(1, 2, 3), missed(3, job="other")]) == {"too_late": 1}
    assert await history.write_missed([]) == {}


async def test_two_cachers_that_are_told_the_same_keep_each_slot_once(pool: asyncpg.Pool) -> None:
    stores = [HistoryStore(pool), HistoryStore(pool)]
    events = [missed(*range(n, n + 5)) for n in range(0, 40, 3)]
    told = await asyncio.gather(*(store.write_missed(some) for store in stores for some in ([*events], [*reversed(events)])))
    assert sum(counts.get("too_late", 0) for counts in told) == len({slot for event in events for slot in event.slots})


async def test_there_is_a_row_for_every_slot_also_where_nothing_ran(pool: asyncpg.Pool) -> None:
    await keep_run(pool, "7", SLOT + timedelta(hours=3, seconds=2))
    await keep_run(pool, "8", SLOT + timedelta(hours=4, seconds=2), over=False)
    # A clock that was wrong may call a slot missed which another one asked for.
    await HistoryStore(pool).write_missed([missed(1, 2, 3)])
    rows = await pool.fetch("SELECT slot_at, state, reason, run_id, late_s, planned FROM run_slots ORDER BY at")
    assert [(row["slot_at"], row["state"], row["reason"], row["run_id"], row["late_s"]) for row in rows] == [
        (SLOT + timedelta(hours=1), "missed", "too_late", None, None),
        (SLOT + timedelta(hours=2), "missed", "too_late", None, None),
        (SLOT + timedelta(hours=3), "over", None, "7", 2.0),
        (SLOT + timedelta(hours=4), "under way", None, "8", 2.0),
    ]


async def test_what_is_older_than_it_is_kept_goes_and_nothing_else_does(pool: asyncpg.Pool) -> None:
    await keep_run(pool, "1", NOW - 91 * DAY)
    await keep_run(pool, "2", NOW - 91 * DAY, told=False)
    await keep_run(pool, "3", NOW - 91 * DAY, over=False)
    await keep_run(pool, "4", NOW - 89 * DAY)
    history = HistoryStore(pool)
    await history.write_missed([missed(1)])
    assert await history.delete_before(NOW - 90 * DAY) == 1
    for table in ("runs", "results"):
        assert [row["run_id"] for row in await pool.fetch(f"SELECT run_id FROM {table} ORDER BY run_id")] == ["2", "3", "4"]
    assert await pool.fetchval("SELECT count(*) FROM missed_slots") == 0


async def test_two_cachers_may_forget_at_once_and_both_come_to_an_end(pool: asyncpg.Pool) -> None:
    runs = RUNS_AT_ONCE * 2 + 1
    for number in range(runs):
        await keep_run(pool, str(number), NOW - 100 * DAY)
    gone = await asyncio.gather(*(HistoryStore(pool).delete_before(NOW - DAY) for _ in range(2)))
    assert sum(gone) == runs
    assert await pool.fetchval("SELECT count(*) FROM results") == 0


async def test_the_migrations_of_the_history_can_be_taken_back(pool: asyncpg.Pool) -> None:
    await keep_run(pool, "7", NOW)
    numbers = ("0005", "0007")
    for number in reversed(numbers):
        [text] = [path.read_text() for path in SCHEMA.glob(f"{number}_*.sql")]
        await pool.execute(text.partition("-- migrate:down")[2])
        assert await pool.fetchval("SELECT count(*) FROM run_history") == 1
    for number in numbers:
        [again] = [migration for migration in migrations() if migration.name.startswith(number)]
        await pool.execute(again.up)
    assert await pool.fetchrow("SELECT reasons, refused FROM run_history") == (None, None)
