"""The whole system for a test: its own servers, the schema, and each service as a process of its own that may be killed."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import asyncpg

from quotebus.embedded import NatsServer, PostgresServer, RedisServer
from quotebus.stack.supervisor import ServiceProcess
from services.cacher.migrate import migrate
from services.fetcher.accounts import quotas
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.settings import load_settings


class Deployment:
    """Servers and services of one test. `nats`, `postgres`, `redis` can be killed and started; so can each of `services`."""

    def __init__(self, folder: Path, environment: dict[str, str], *, redis: bool = True, fast: bool = True) -> None:
        self._folder = folder
        self._extra = environment
        self.nats = NatsServer(folder)
        self.postgres = PostgresServer(folder, fast=fast)
        self.redis: RedisServer | None = RedisServer(folder) if redis else None
        self.services: dict[str, ServiceProcess] = {}
        self.bus: Bus

    @property
    def environment(self) -> dict[str, str]:
        """What every service is told."""
        own = {
            "QUOTEBUS_NATS__URL": self.nats.url,
            "QUOTEBUS_POSTGRES__DSN": self.postgres.url,
            "QUOTEBUS_CONFIG": str(self._folder / "quotebus.toml"),
            "QUOTEBUS_FETCHER__ACK_WAIT_S": "3",
            "QUOTEBUS_CACHER__ACK_WAIT_S": "3",
        }
        return own | ({"QUOTEBUS_REDIS__URL": self.redis.url} if self.redis else {}) | self._extra

    async def start(self, name: str, kind: str | None = None, **variables: str) -> ServiceProcess:
        """Start a service, or one more of a kind under a name of its own; `variables` are for this one alone."""
        command = (sys.executable, "-m", f"services.{kind or name}")
        environment = self.environment | variables
        service = self.services.setdefault(name, ServiceProcess(name, command, self._folder / f"{name}.log", environment))
        await service.start()
        return service

    async def rows(self, query: str, *args: object) -> list[asyncpg.Record]:
        """What a query gives on this deployment's database."""
        connection = await asyncpg.connect(self.postgres.url)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *args)
            return rows
        finally:
            await connection.close()

    def log(self, name: str) -> str:
        """What a service has logged."""
        return (self._folder / f"{name}.log").read_text()


@asynccontextmanager
async def deployed(
    folder: Path, services: tuple[str, ...], environment: dict[str, str], *, redis: bool = True, fast: bool = True
) -> AsyncIterator[Deployment]:
    """Servers up, schema and streams made, the named services ready. `fast`: a Postgres that a crash of the machine may empty."""
    (folder / "quotebus.toml").write_text("")
    deployment = Deployment(folder, environment, redis=redis, fast=fast)
    async with AsyncExitStack() as stack:
        for server in filter(None, (deployment.nats, deployment.postgres, deployment.redis)):
            await stack.enter_async_context(server)
        with patch.dict(os.environ, deployment.environment):
            settings = load_settings()
        await migrate(deployment.postgres.url)
        deployment.bus = await stack.enter_async_context(connect(settings.nats, "test"))
        await provision(deployment.bus.js, topology(settings, quotas(settings)))
        stack.push_async_callback(_stop_all, deployment)
        await asyncio.gather(*(deployment.start(name) for name in services))
        yield deployment


async def _stop_all(deployment: Deployment) -> None:
    await asyncio.gather(*(service.stop(4) for service in deployment.services.values()))


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 180.0) -> None:
    """Return when the condition holds; fail when it does not for so long."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                if await condition():
                    return
            except (OSError, asyncpg.PostgresError):
                pass  # the server is down just now: part of the test
            await asyncio.sleep(0.1)
