"""What compose.yaml starts, started as it says, on servers configured as it says: only without the containers."""

import asyncio
import json
import os
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import mkdtemp

import aiohttp
import asyncpg
import nats
import pytest
from nats.aio.client import Client
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from quotebus.embedded import PostgresServer
from tests.compose.composed import ROOT, compose_file
from tests.connected.compose.composed_servers import ROLE, ComposedNats, ComposedRedis, first_start, postgres_dsn
from tests.connected.compose.composed_service import ComposedService
from tests.connected.deployment import until

SERVICES = ("scheduler", "fetcher", "cacher", "gateway", "notifier")


class Composed:
    """The servers of compose.yaml, and its secrets as they hold here."""

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        subprocess.run(["sh", str(ROOT / "compose/make_secrets.sh"), str(self.secrets)], check=True, timeout=20)
        self.nats = ComposedNats(folder, self.secrets)
        self.redis = ComposedRedis(folder, self.secrets)
        self.postgres = postgres

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    @property
    def dsn(self) -> str:
        return postgres_dsn(self.postgres, self.secret("QUOTEBUS_POSTGRES__DSN"))

    @property
    def redis_url(self) -> str:
        return self.secret("QUOTEBUS_REDIS__URL").replace("@redis:6379", f"@127.0.0.1:{self.redis.port}")

    async def client(self) -> Client:
        return await nats.connect(self.nats.url, user="quotebus", password=self.secret("QUOTEBUS_NATS__PASSWORD"))

    def service(self, name: str) -> ComposedService:
        secrets = {file.name: file.read_text() for file in self.secrets.iterdir()}
        here = {**secrets, "QUOTEBUS_POSTGRES__DSN": self.dsn, "QUOTEBUS_REDIS__URL": self.redis_url}
        return ComposedService(name, Path(mkdtemp(dir=self.folder)), here, {"nats://nats:4222": self.nats.url})


@pytest.fixture(scope="module")
async def composed(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> AsyncIterator[Composed]:
    composed = Composed(tmp_path_factory.mktemp("composed"), postgres_server)
    async with composed.nats, composed.redis:
        await first_start(postgres_server, composed.secrets)
        yield composed


@pytest.fixture(scope="module")
async def running(composed: Composed) -> AsyncIterator[dict[str, ComposedService]]:
    """Each of our services: migrate has gone through, the others are started and healthy. The last one to use them stops them."""
    services = {name: composed.service(name) for name in ("migrate", *SERVICES)}
    async with AsyncExitStack() as stack:
        for each in services.values():
            stack.push_async_callback(each.kill)
        assert not await services["cacher"].healthy(), "nothing runs yet"
        assert await services["migrate"].run() == 0, services["migrate"].log
        assert await services["migrate"].run() == 0, "a second time there is nothing to do"
        for name in SERVICES:
            await services[name].start()
        for name in SERVICES:
            await until(services[name].healthy, 30)
        yield services


async def test_the_gateway_shows_prices_to_everybody_and_obeys_the_token_that_was_made(
    composed: Composed, running: dict[str, ComposedService]
) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running['gateway'].http_port}") as session:

        async def shown() -> bool:
            async with session.get("/prices/AAPL") as answer:
                return answer.status == 200

        await until(shown, 30)
        for token, status in (("", 401), ("wrong", 401), (composed.secret("gateway_token"), 202)):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.post("/refresh", json={"symbols": ["AAPL"]}, headers=headers) as answer:
                assert answer.status == status
    assert composed.secret("gateway_token") not in running["gateway"].log


async def test_the_command_line_works_in_a_container(composed: Composed, running: dict[str, ComposedService]) -> None:
    async with await composed.client() as client:
        reply = await client.request("status.ask", timeout=5)
        assert json.loads(reply.data)["ready"], "FastStream's own connection is logged in, too"
    typed = composed.service("fetcher")
    for words in (("refresh", "AAPL", "--wait"), ("price", "AAPL"), ("status",), ("doctor",)):
        assert await typed.run("quotebus", *words) == 0, typed.log
    assert "read-only file system" not in typed.log


async def test_the_services_as_compose_runs_them_store_prices_write_no_file_and_stop_in_time(
    composed: Composed, running: dict[str, ComposedService]
) -> None:
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(composed.dsn)
        stack.push_async_callback(connection.close)
        redis = await stack.enter_async_context(Redis.from_url(composed.redis_url))

        async def stored() -> bool:
            rows = await connection.fetchval("SELECT count(*) FROM price_quotes WHERE feed = 'synthetic'")
            return bool(rows and await redis.exists("quotebus:quote:AAPL"))

        await until(stored, 30)
    assert all(running[name].user != 0 or os.geteuid() != 0 for name in SERVICES)
    assert await asyncio.gather(*(running[name].stop() for name in SERVICES)) == [0] * len(SERVICES)
    for each in running.values():
        assert "read-only file system" not in each.log
        assert composed.secret("QUOTEBUS_NATS__PASSWORD") not in each.log
        assert composed.secret("postgres_password") not in each.log


@pytest.mark.parametrize(
    "statement", ["open('file', 'w')", "import tempfile; tempfile.TemporaryFile()", "import os; os.mkdir('d')"]
)
async def test_whoever_writes_a_file_would_have_been_noticed(composed: Composed, statement: str) -> None:
    service = composed.service("scheduler")
    assert await service.run("python", "-c", statement) == 99
    assert "read-only file system" in service.log


async def test_nats_wants_the_password_and_answers_its_health_check(composed: Composed) -> None:
    # As wget --spider asks.
    with urllib.request.urlopen(urllib.request.Request(composed.nats.health, method="HEAD"), timeout=5) as answer:
        assert answer.status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", composed.nats.port)
    writer.write(b'CONNECT {"verbose": false}\r\nPING\r\n')
    assert b"Authorization Violation" in await reader.read()
    writer.close()
    await writer.wait_closed()
    async with await composed.client() as client:
        assert client.max_payload == 1024 * 1024


async def test_redis_is_a_cache_and_without_its_password_it_only_answers_ping(composed: Composed) -> None:
    async with Redis(port=composed.redis.port) as stranger:
        assert await stranger.ping()
        with pytest.raises((NoPermissionError, AuthenticationError)):
            await stranger.get("quotebus:quote:AAPL")
    async with Redis.from_url(composed.redis_url) as ours:
        await ours.set("quotebus:test", "1")
        for command in (("CONFIG", "GET", "maxmemory"), ("FLUSHALL",), ("KEYS", "*"), ("SHUTDOWN",)):
            with pytest.raises(NoPermissionError):
                await ours.execute_command(*command)
    text = (ROOT / "compose/redis.conf").read_text()
    assert "maxmemory-policy allkeys-lru\n" in text
    assert "maxmemory 512mb\n" in text


async def test_the_role_that_our_services_use_is_no_superuser_and_the_servers_settings_exist(composed: Composed) -> None:
    connection = await asyncpg.connect(composed.dsn)
    try:
        rights = await connection.fetchrow("SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = $1", ROLE)
        assert rights is not None
        assert tuple(rights) == (False, False, False)
        command = compose_file()["services"]["postgres"]["command"]
        names = [word.partition("=")[0] for word in command if "=" in word]
        known = await connection.fetch("SELECT name FROM pg_settings WHERE lower(name) = ANY($1)", names)
        assert len(known) == len(names) > 0
    finally:
        await connection.close()
