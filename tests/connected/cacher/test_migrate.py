"""Bars that a version without the newest columns has stored are read and written on, also by a cacher of that version."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from services.cacher.migrate import SCHEMA, migrate, migrations
from services.cacher.store_postgres.prices import SERVER_SETTINGS, PostgresStore
from services.runtime.postgres import open_pool
from services.runtime.prices.read_postgres import read_bars
from services.runtime.settings import PostgresSettings, Secret
from tests.cacher.bar_samples import full_bars
from tests.cacher.events import FIRST, read

FIRST_WITH_MORE_COLUMNS = "0009"
# As the version before wrote them: it names its columns.
OLDER_INSERT = """
INSERT INTO bars (instrument, timeframe, at, basis, feed, provider, observed_at, open, high, low, close, volume, adjusted_close,
    final)
SELECT i.id, $2, $3, 'split', 'delayed', 'yahoo', $4, 50.5, 51, 50, 50.25, 1000, NULL, true FROM instruments i WHERE symbol = $1"""


def _older_schema(folder: Path) -> Path:
    for file in SCHEMA.glob("*.sql"):
        if file.name < FIRST_WITH_MORE_COLUMNS:
            shutil.copy(file, folder)
    return folder


async def _insert(pool: asyncpg.Pool, symbol: str, timeframe: str, at: datetime) -> None:
    await pool.execute("INSERT INTO instruments (symbol) VALUES ($1) ON CONFLICT DO NOTHING", symbol)
    await pool.execute(OLDER_INSERT, symbol, timeframe, at, at)


async def test_stored_bars_open_and_an_older_cacher_writes_on(postgres_url: str, tmp_path: Path) -> None:
    await migrate(postgres_url, _older_schema(tmp_path))
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        await pool.execute("SELECT ensure_bars_month('1m', '2024-01-01')")
        await _insert(pool, "OLD", "1d", FIRST)
        await _insert(pool, "OLD", "1m", FIRST)
    await migrate(postgres_url)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        await _insert(pool, "OLD", "1d", datetime(2024, 1, 3, tzinfo=UTC))
        rows = await pool.fetch("SELECT close, trade_count FROM price_bars WHERE symbol = 'OLD' ORDER BY timeframe, at")
        assert [(row["close"], row["trade_count"]) for row in rows] == [(50.25, None)] * 3


async def test_minutes_of_old_and_new_months_take_the_new_columns(postgres_url: str, tmp_path: Path) -> None:
    await migrate(postgres_url, _older_schema(tmp_path))
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        await pool.execute("SELECT ensure_bars_month('1m', '2024-01-01')")
    await migrate(postgres_url)
    event = full_bars(timeframe="1m", at=[FIRST, datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)])
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        await PostgresStore(pool).write(read(event))
        async with pool.acquire() as connection:
            [document] = await read_bars(connection, [("AAPL", "1m")], 10)
    assert document.columns["trade_count"] == event.trade_count


async def test_the_new_columns_can_be_taken_back(postgres_url: str) -> None:
    await migrate(postgres_url)
    [newest] = [migration for migration in migrations() if migration.name.startswith(FIRST_WITH_MORE_COLUMNS)]
    _, down = (SCHEMA / newest.name).read_text().split("-- migrate:down")
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        await pool.execute(down)
        columns = await pool.fetch("SELECT column_name FROM information_schema.columns WHERE table_name IN ('bars', 'price_bars')")
        assert "trade_count" not in {row["column_name"] for row in columns}
        await pool.execute(newest.up)
        assert await pool.fetchval("SELECT count(trade_count) FROM price_bars") == 0
