"""Migrated database with a price store on it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from contracts.message import Message
from services.cacher.migrate import migrate
from services.cacher.store_postgres.prices import SERVER_SETTINGS, PostgresStore, WriteResult
from services.runtime.postgres import open_pool
from services.runtime.settings import PostgresSettings, Secret
from tests.cacher.events import read


class Database:
    """A migrated database with a store on it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.store = PostgresStore(pool)

    async def write(self, *events: Message) -> WriteResult:
        return await self.store.write(read(*events))

    async def closes(self, symbol: str = "AAPL", timeframe: str = "1d") -> list[float]:
        rows = await self.pool.fetch(
            "SELECT close FROM price_bars WHERE symbol = $1 AND timeframe = $2 ORDER BY at, feed", symbol, timeframe
        )
        return [row["close"] for row in rows]

    async def count(self, table: str) -> int:
        return await self.pool.fetchval(f"SELECT count(*) FROM {table}")


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    await migrate(postgres_url)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        yield Database(pool)
