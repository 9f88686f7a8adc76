"""Clocks for tests, in this process and as processes of their own, and what they asked for."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from contracts import subjects
from contracts.job import Job
from contracts.message import decode, encode
from contracts.refresh_request import RefreshRequest
from quotebus.embedded import NatsServer
from services.runtime.bus import Bus, connect
from services.runtime.health import Health
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.schedules.build import schedule_of
from services.runtime.settings import NatsSettings, Settings
from services.scheduler.app import run_clock
from services.scheduler.clock import Clock, utc_now


async def put(bus: Bus, *jobs: Job) -> None:
    """Write jobs to the bucket."""
    bucket = await bus.js.key_value(subjects.JOBS_BUCKET)
    for each in jobs:
        await bucket.put(each.id, encode(each))


async def requests(bus: Bus, name: str = "j") -> list[RefreshRequest]:
    """All that was asked for a job, in order."""
    found, sequence = [], 1
    while True:
        try:
            message = await bus.js.get_msg(subjects.REFRESH, seq=sequence, subject=subjects.job_requests(name), next=True)
        except NotFoundError:
            return found
        found.append(decode(message.data or b"", RefreshRequest))
        sequence = (message.seq or 0) + 1


async def until(true: Callable[[], Awaitable[object]], timeout_s: float = 120.0) -> None:
    """Return when it is."""
    async with asyncio.timeout(timeout_s):
        while not await true():
            await asyncio.sleep(0.05)


async def asked(bus: Bus, count: int, name: str = "j") -> list[RefreshRequest]:
    """What was asked for a job, once it was asked so often."""
    found: list[RefreshRequest] = []

    async def enough() -> bool:
        found[:] = await requests(bus, name)
        return len(found) >= count

    await until(enough)
    return found


@asynccontextmanager
async def ticking(bus: Bus, ahead: timedelta = timedelta()) -> AsyncIterator[Clock]:
    """A clock in this process that is set so much ahead."""
    clock = Clock(bus, Health("scheduler"), lambda: utc_now() + ahead)
    ticks = asyncio.create_task(run_clock(bus, clock))
    try:
        yield clock
    finally:
        ticks.cancel()
        await asyncio.gather(ticks, return_exceptions=True)


@asynccontextmanager
async def processes(url: str, folder: Path, count: int, settings: str = "") -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """So many schedulers; `born` starts one more in the place of a dead one."""
    (folder / "quotebus.toml").write_text(settings)
    clocks = [await born(url, folder) for _ in range(count)]
    try:
        yield clocks
    finally:
        for clock in clocks:
            if clock.returncode is None:
                clock.kill()
                await clock.wait()


async def born(url: str, folder: Path) -> asyncio.subprocess.Process:
    """A scheduler, as a process of its own."""
    environment: dict[str, Any] = {
        "QUOTEBUS_CONFIG": str(folder / "quotebus.toml"),
        "QUOTEBUS_NATS__URL": url,
        "QUOTEBUS_HEALTH__PORT": "0",
        "QUOTEBUS_LOG__LEVEL": "warning",
    }
    command = (sys.executable, "-m", "services.scheduler")
    return await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)


HOUR = timedelta(hours=1)


def job(name: str = "j", **terms: object) -> Job:
    terms = {"every_s": 1.0, "enabled_at": utc_now(), **({} if "cron" not in terms else {"every_s": None}), **terms}
    return Job(id=name, symbols=["AAPL"], **terms)


def each_slot_once(wanted: Job, found: list[RefreshRequest]) -> None:
    """Asked and missed slots together are every slot from the first to the last, none of them twice."""
    slots = [request.slot_at for request in found]
    assert slots == sorted(set(slots))
    assert sum(request.missed_slots + 1 for request in found[1:]) == schedule_of(wanted).count(slots[0], slots[-1])


@pytest.fixture
async def provisioned_bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to a server that has the streams and buckets, and no provider."""
    async with connect(NatsSettings(url=nats_server.url), "test") as bus:
        await provision(bus.js, topology(Settings(nats=NatsSettings(url=nats_server.url)), {}))
        yield bus
