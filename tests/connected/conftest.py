"""Real servers for the tests: PostgreSQL and Redis once per run of pytest, NATS anew for every test."""

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from quotebus.embedded import NatsServer, PostgresServer, RedisServer
from services.runtime.bus import Bus, connect
from services.runtime.settings import NatsSettings

_numbers = count(1)


@pytest.fixture(scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    """A server for all tests; one that stops or kills it makes its own instead."""
    async with PostgresServer(tmp_path_factory.mktemp("postgres"), fast=True) as server:
        yield server


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A server for all tests; one that stops or kills it makes its own instead."""
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """An empty NATS of this test's own: it may kill it and start it again."""
    async with NatsServer(tmp_path / "servers") as server:
        yield server


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    """Where this test's own, empty NATS listens."""
    return nats_server.url


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connection of the test's own to its NATS."""
    async with connect(NatsSettings(url=nats_url), "test") as bus:
        yield bus


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A fresh, empty database of this test's own."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
    yield postgres_server.url.removesuffix("/quotebus") + f"/{name}"
    await _execute(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def redis_url(redis_server: RedisServer) -> str:
    """The tests' Redis, emptied for this one."""
    async with Redis.from_url(redis_server.url) as redis:
        await redis.flushall()
    return redis_server.url


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
