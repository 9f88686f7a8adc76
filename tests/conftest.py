"""Fixtures of every test: a clean environment, no task left behind on the shared loop, and real servers.

PostgreSQL and Redis start once per process of pytest, NATS anew for every test that asks for it.

`make test` runs them in several processes at once. Each has its own servers, folders and ports.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from quotebus.embedded import NatsServer, PostgresServer, RedisServer, ports
from services.runtime.bus import Bus, connect
from services.runtime.settings import NatsSettings

_numbers = count(1)


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are processors, as many a test waits for a server or for a time to come.

    Never many: a container may see far more processors than it may use.
    """
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4) + 1


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Whoever starts the tests in the background has them ignore Ctrl-C; what they start must not inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def ports_of_its_own(request: pytest.FixtureRequest) -> None:
    """No port of the other processes that run tests now, be it that of a server which is down for a moment."""
    worker = getattr(request.config, "workerinput", {"workerid": "gw0", "workercount": 1})
    share = len(ports.OURS) // worker["workercount"]
    first = ports.OURS.start + int(worker["workerid"].removeprefix("gw")) * share
    ports._turns = ports.in_any_order(range(first, first + share))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No QUOTEBUS_* variable of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("QUOTEBUS_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fails a test that leaves an asyncio task running: it would live on in the tests after it."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        # Closing a connection may take the loop a few turns more.
        _, left = await asyncio.wait(left, timeout=2.0)
    names = sorted(repr(task.get_coro()) for task in left)
    for task in left:
        task.cancel()
    assert not left, f"tasks left running: {names}"


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
