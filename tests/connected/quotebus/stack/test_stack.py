"""The engine of `quotebus up`: what it starts, keeps running, and leaves behind."""

import asyncio
import os
import signal
import stat
from pathlib import Path

import asyncpg
import psutil
import pytest

from quotebus.embedded import is_free
from tests.connected.quotebus.running_stack import all_gone, running


async def test_every_part_says_when_it_is_ready_and_the_endpoints_are_written_for_us_alone(tmp_path: Path) -> None:
    async with running(tmp_path, "clock", "worker") as up:
        await up.hear(lambda line: line == "all started")
        ready = {line.split()[0] for line in up.said if line.split()[1:2] == ["ready"]}
        assert ready == {"nats", "postgres", "redis", "schema", "clock", "worker"}
        endpoints = up.endpoints()
        assert set(endpoints) == {"nats", "postgres", "redis", "http", "health"}
        assert set(endpoints["health"]) == {"clock", "worker"}
        assert stat.S_IMODE((tmp_path / "endpoints.json").stat().st_mode) == 0o600
        password = (tmp_path / "postgres.password").read_text()
        assert not any(password in line for line in up.said)
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_to_end_leaves_no_process_and_the_next_start_finds_the_data(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path, "clock") as up:
        assert await up.hear(lambda line: line.startswith("rows")) == "rows 1"
        await up.hear(lambda line: line == "all started")
        family = list(up.family().values())
        up.process.send_signal(number)
        assert await up.process.wait() == 0
        assert await all_gone(family)
        assert not (tmp_path / "endpoints.json").exists()
    assert "database system is shut down" in (tmp_path / "log" / "postgres.log").read_text()
    async with running(tmp_path) as up:
        assert await up.hear(lambda line: line.startswith("rows")) == "rows 2"


async def test_a_killed_service_starts_again(tmp_path: Path) -> None:
    async with running(tmp_path, "clock", "worker") as up:
        await up.hear(lambda line: line == "all started")
        first = up.child("worker").pid
        os.kill(first, signal.SIGKILL)
        assert "SIGKILL" in await up.hear(lambda line: "starts again" in line)
        await up.hear_ready("worker")
        assert up.child("worker").pid != first


@pytest.mark.parametrize("server", ["nats", "postgres", "redis"])
async def test_a_killed_server_starts_again_at_its_address_with_its_data(tmp_path: Path, server: str) -> None:
    async with running(tmp_path) as up:
        await up.hear(lambda line: line == "all started")
        before = up.endpoints()
        pid = next(
            child.pid for child in psutil.Process(up.process.pid).children() if server in child.name() or server in child.exe()
        )
        os.kill(pid, signal.SIGKILL)
        await up.hear_ready(server)
        assert up.endpoints() == before
        connection = await asyncpg.connect(before["postgres"])
        assert await connection.fetchval("SELECT count(*) FROM starts") == 1
        await connection.close()


async def test_a_service_that_always_dies_is_tried_again_after_ever_longer_waits_and_the_others_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, "clock", "broken") as up:
        waits = []
        for _ in range(3):
            line = await up.hear(lambda line: "starts again" in line)
            assert line.startswith("broken ended with exit status 3: no such thing")
            waits.append(line.rsplit(" in ", 1)[1])
        assert waits == ["0.5 s", "1 s", "2 s"]
        assert "all started" in up.said
        assert up.child("clock").is_running()


async def test_a_second_engine_on_the_same_data_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    async with running(tmp_path, "clock") as up:
        await up.hear(lambda line: line == "all started")
        async with running(tmp_path, "clock") as second:
            said = await second.hear(lambda line: "Error" in line)
            assert said.startswith("FolderInUseError") and f"in use by process {up.process.pid}:" in said
            assert await second.process.wait() == 2
        assert up.child("clock").is_running()


async def test_no_process_outlives_an_engine_that_was_killed(tmp_path: Path) -> None:
    async with running(tmp_path, "clock", "stubborn") as up:
        await up.hear(lambda line: line == "all started")
        family = list(up.family().values())
        assert len(family) > 5
        up.process.kill()
        assert await all_gone(family)
    async with running(tmp_path, "clock") as up:
        assert await up.hear(lambda line: line.startswith("rows")) == "rows 2"


async def test_a_service_that_ignores_sigterm_does_not_hold_the_end_up(tmp_path: Path) -> None:
    async with running(tmp_path, "stubborn") as up:
        await up.hear(lambda line: line == "all started")
        family = list(up.family().values())
        up.process.terminate()
        assert await up.process.wait() == 0
        assert await all_gone(family)


async def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, "stubborn") as up:
        await up.hear(lambda line: line == "all started")
        family = list(up.family().values())
        port = int(up.endpoints()["nats"].rsplit(":", 1)[1])
        stubborn = up.child("stubborn")
        # The first two may come from one key press; an impatient person presses again, as long as there is something to end.
        while stubborn.is_running():
            up.process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.2)
        assert await up.process.wait() == 0
        assert await all_gone(family)
        assert is_free(port)
        assert "database system is shut down" not in (tmp_path / "log" / "postgres.log").read_text()


async def test_a_signal_while_it_is_still_starting_is_obeyed(tmp_path: Path) -> None:
    async with running(tmp_path, "clock") as up:
        while not (tmp_path / "postgres").exists():
            await asyncio.sleep(0.01)
        family = list(up.family().values())
        up.process.terminate()
        assert await up.process.wait() == 0
        assert await all_gone(family)
    async with running(tmp_path, "clock") as up:
        await up.hear(lambda line: line == "all started")
