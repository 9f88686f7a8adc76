"""What a newer version writes of runs and symbols is stored by this one as it came."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from contracts.run_events import RunPlanned, RunResult
from contracts.symbol_health import SymbolHealth
from services.cacher.migrate import migrate
from services.cacher.store_postgres.prices import SERVER_SETTINGS
from services.cacher.store_postgres.runs import RunStore
from services.cacher.store_postgres.symbol_health import SequencedHealth, SymbolStore
from services.runtime.postgres import open_pool
from services.runtime.settings import PostgresSettings, Secret

NOON = datetime(2024, 3, 4, 12, tzinfo=UTC)


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(postgres_url)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        yield pool


async def test_a_run_of_an_unknown_dataset_with_an_unknown_outcome_ends_and_is_counted(pool: asyncpg.Pool) -> None:
    plan = RunPlanned(
        run_id="1", request_id="r", lane="nightly", dataset="fundamentals", timeframe="1q", requested_at=NOON, wanted_at=NOON,
        deadline_at=datetime.now(UTC) + timedelta(hours=1), planned=1, symbols=["AAPL"],
    )  # fmt: skip
    result = RunResult(run_id="1", request_id="r", symbol="AAPL", outcome="deferred", reason="later", wanted_at=NOON, at=NOON)
    [finished] = await RunStore(pool).write([plan, result])
    assert (finished.dataset, finished.timeframe, finished.lane) == ("fundamentals", "1q", "nightly")
    assert finished.counts == {"deferred": 1}
    assert finished.reasons == {"deferred": {"later": 1}}


async def test_a_symbol_in_an_unknown_state_is_kept(pool: asyncpg.Pool) -> None:
    health = SymbolHealth(
        provider="tiingo",
        dataset="fundamentals",
        symbol="AAPL",
        state="merged_away",
        before="halted",
        since=NOON,
        at=NOON,
        by="vendor",
    )
    await SymbolStore(pool).write([SequencedHealth(health, 1)])
    assert await pool.fetchval("SELECT state FROM symbol_health WHERE symbol = 'AAPL'") == "merged_away"
