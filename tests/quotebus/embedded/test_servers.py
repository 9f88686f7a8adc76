"""The embedded servers, as real processes."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import nats
import psutil
import pytest
from nats.js.api import StreamConfig
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from quotebus.embedded import EmbeddedServer, NatsServer, PostgresServer, RedisServer, ServerError
from quotebus.embedded.folder_lock import FolderInUseError
from quotebus.embedded.ports import free_port, is_free

EVERY_SERVER = pytest.mark.parametrize("kind", [NatsServer, PostgresServer, RedisServer])

HOLDER = """
import asyncio, sys
from pathlib import Path
from quotebus.embedded import NatsServer, PostgresServer, RedisServer

async def main():
    for kind in (NatsServer, PostgresServer, RedisServer):
        server = kind(Path(sys.argv[1]))
        await server.start()
        print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@EVERY_SERVER
async def test_a_server_answers_keeps_its_port_over_a_kill_and_leaves_no_process(
    kind: type[EmbeddedServer], tmp_path: Path
) -> None:
    server = kind(tmp_path)
    async with server:
        first_pid, first_url = server.pid, server.url
        await server.kill()
        assert not server.running
        await server.start()
        assert (server.pid, server.url) != (first_pid, first_url)
        assert server.url == first_url
        second_pid = server.pid
    assert not psutil.pid_exists(first_pid)
    assert not psutil.pid_exists(second_pid)
    assert is_free(server.port)


@EVERY_SERVER
async def test_a_second_server_on_the_same_data_is_refused_and_told_who_has_it(kind: type[EmbeddedServer], tmp_path: Path) -> None:
    async with kind(tmp_path) as server:
        with pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()}"):
            await kind(tmp_path).start()
        assert server.running
    async with kind(tmp_path) as server:
        assert server.running


@EVERY_SERVER
async def test_a_taken_port_is_named(kind: type[EmbeddedServer], tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "other") as other:
        with pytest.raises(ServerError, match=f"port {other.port} is taken"):
            await kind(tmp_path, port=other.port).start()


async def test_no_server_outlives_a_process_that_was_killed(tmp_path: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert holder.stdout is not None
    try:
        pids = [int(await holder.stdout.readline()) for _ in range(3)]
        servers = [psutil.Process(pid) for pid in pids]
        families = [*servers, *(child for server in servers for child in server.children(recursive=True))]
    finally:
        holder.kill()
        await holder.communicate()
    _, alive = await asyncio.to_thread(psutil.wait_procs, families, timeout=20)
    assert alive == []
    async with PostgresServer(tmp_path) as server:
        assert server.running


async def test_what_nats_acknowledged_survives_its_kill(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        client = await nats.connect(server.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig(name="S", subjects=["s"]))
        await jetstream.publish("s", b"kept")
        await client.close()
        await server.kill()
        await server.start()
        client = await nats.connect(server.url)
        assert (await client.jetstream().get_last_msg("S", "s")).data == b"kept"
        await client.close()


async def test_what_postgres_committed_survives_its_kill(tmp_path: Path) -> None:
    async with PostgresServer(tmp_path, fast=True) as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
        connection.terminate()
        await server.kill()
        await server.start()
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT n FROM kept") == 7
        await connection.close()


async def test_postgres_asks_for_a_password_serves_no_superuser_and_changes_no_mode_outside_its_folder(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with PostgresServer(closed / "data", fast=True) as server:
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert stat.S_IMODE((closed / "data" / "postgres.password").stat().st_mode) == 0o600
        assert stat.S_IMODE((closed / "data" / "postgres").stat().st_mode) == 0o700
        assert psutil.Process(server.pid).uids().effective != 0
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url, password="guess")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url, user="postgres")
        connection = await asyncpg.connect(server.url)
        assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert await connection.fetchval("SELECT current_setting('TimeZone')") == "UTC"
        await connection.close()


async def test_a_cluster_half_made_is_made_anew(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres" / "cluster.new"
    async with PostgresServer(tmp_path, fast=True):
        pass
    (tmp_path / "postgres" / "cluster").rename(unfinished)
    (unfinished / "PG_VERSION").unlink()
    async with PostgresServer(tmp_path, fast=True) as server:
        assert server.running
        assert not unfinished.exists()


async def test_redis_refuses_to_be_told_to_write_files(tmp_path: Path) -> None:
    async with RedisServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        await redis.set("key", "value", ex=60)
        assert await redis.get("key") == b"value"
        with pytest.raises(NoPermissionError):
            await redis.config_set("dir", "/")


async def test_a_server_that_dies_at_birth_says_why(tmp_path: Path) -> None:
    async with PostgresServer(tmp_path, fast=True):
        pass
    (tmp_path / "postgres" / "cluster" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ServerError, match="postgres did not start"):
        await PostgresServer(tmp_path, fast=True).start()


async def test_a_server_stops_when_a_signal_to_end_is_ignored(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        await server.stop(timeout_s=0.1)
        assert not server.running


def test_a_free_port_is_one_nobody_listens_on() -> None:
    assert is_free(free_port())


def test_no_free_port_is_given_again_before_many_others_are() -> None:
    assert len({free_port() for _ in range(50)}) == 50
