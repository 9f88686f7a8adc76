"""How exactly a clock with very many jobs keeps time, and what it costs: one process of the scheduler on a server of its own."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import psutil
from nats.aio.msg import Msg

from bench.report import Figure
from contracts import subjects
from contracts.job import Job
from contracts.message import decode, encode
from contracts.refresh_request import RefreshRequest
from quotebus.embedded import NatsServer
from quotebus.stack.supervisor import ServiceProcess
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.schedules.build import schedule_of
from services.runtime.settings import NatsSettings, Settings
from services.scheduler.due import due_at

JOBS, IDLE_S, BUSY_S, PUTS_AT_ONCE = 10_000, 20.0, 60.0, 200
_PROGRAM = "services.scheduler"
# Ten minutes, over which the jitter spreads the jobs: 17 slots a second.
BUSY: dict[str, Any] = {"every_s": 600.0, "jitter_s": 600.0, "catch_up": "none"}
# One slot a week, and not now.
IDLE: dict[str, Any] = {"every_s": 7 * 86400.0}
HERD: dict[str, Any] = {"every_s": 60.0}


async def figures() -> list[Figure]:
    """Precision, memory, CPU; and how long a herd takes whose slots fall on one instant."""
    with TemporaryDirectory() as name:
        async with NatsServer(Path(name)) as server, connect(NatsSettings(url=server.url), "bench") as bus:
            await provision(bus.js, topology(Settings(), {}))
            await _put(bus, IDLE, datetime.now(UTC))
            async with _scheduler(Path(name), server.url) as process:
                await _all_read(process[1])
                cpu = await _cpu_percent(process[0], IDLE_S)
                # What is due at once is let go: it would be a herd.
                await _put(bus, BUSY, datetime.now(UTC) - timedelta(seconds=600))
                delays = await _delays(bus, BUSY_S)
                memory = process[0].memory_info().rss / 2**20
                herd = await _herd(bus)
    spread = f"{len(delays)} slots of {JOBS:,} jobs in {BUSY_S:.0f} s"
    return [
        Figure("slot due → request stored, ms, p50", quantiles(delays, n=100)[49], None, spread),
        Figure("slot due → request stored, ms, p99", quantiles(delays, n=100)[98], 10, at_most=True),
        Figure("memory of the clock, MiB", memory, 60, f"{JOBS:,} jobs", at_most=True),
        Figure("CPU of the clock while nothing is due, %", cpu, 1, at_most=True),
        Figure("slots of one instant, requests stored a second", herd, None, f"{JOBS:,} slots"),
    ]


@asynccontextmanager
async def _scheduler(folder: Path, url: str) -> AsyncIterator[tuple[psutil.Process, ServiceProcess]]:
    (folder / "quotebus.toml").touch()
    environment = {"QUOTEBUS_CONFIG": str(folder / "quotebus.toml"), "QUOTEBUS_NATS__URL": url, "QUOTEBUS_LOG__LEVEL": "warning"}
    service = ServiceProcess("scheduler", (sys.executable, "-m", _PROGRAM), folder / "scheduler.log", environment)
    await service.start()
    try:
        [child] = [each for each in psutil.Process(os.getpid()).children() if _PROGRAM in each.cmdline()]
        yield child, service
    finally:
        await service.stop()


async def _put(bus: Bus, times: dict[str, Any], enabled_at: datetime) -> None:
    bucket = await bus.js.key_value(subjects.JOBS_BUCKET)
    for first in range(0, JOBS, PUTS_AT_ONCE):
        jobs = [_job(number, times, enabled_at) for number in range(first, first + PUTS_AT_ONCE)]
        await asyncio.gather(*(bucket.put(job.id, encode(job)) for job in jobs))


def _job(number: int, times: dict[str, Any], enabled_at: datetime) -> Job:
    return Job(id=f"job-{number:05d}", symbols=[f"S{number:05d}", "AAPL"], enabled_at=enabled_at, **times)


async def _all_read(service: ServiceProcess) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(120):
        while True:
            async with session.get(f"{service.url}/metrics") as answer:
                if f'quotebus_jobs{{state="ticking"}} {JOBS:.1f}' in await answer.text():
                    return
            await asyncio.sleep(0.5)


async def _cpu_percent(process: psutil.Process, seconds: float) -> float:
    await asyncio.sleep(5)
    before = process.cpu_times()
    await asyncio.sleep(seconds)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / seconds


async def _delays(bus: Bus, seconds: float) -> list[float]:
    """Milliseconds from when a slot was due until its request came from the stream; of slots after all jobs were read."""
    await asyncio.sleep(10)
    began, delays = datetime.now(UTC), []

    async def note(msg: Msg) -> None:
        at = time.time()
        request = decode(msg.data, RefreshRequest)
        job = _job(int((request.job or "").removeprefix("job-")), BUSY, began)
        assert request.slot_at is not None
        due = due_at(job, schedule_of(job), request.slot_at)
        if due > began:
            delays.append(1000 * (at - due.timestamp()))

    subscription = await bus.js.subscribe("refresh.request.>", stream=subjects.REFRESH, ordered_consumer=True, cb=note)
    await asyncio.sleep(seconds)
    await subscription.unsubscribe()
    return delays


async def _herd(bus: Bus) -> float:
    """All jobs at one instant: how many requests a second are stored then."""
    at = (time.time() + 90) // 60 * 60
    await _put(bus, HERD, datetime.fromtimestamp(at - 1, UTC))
    await asyncio.sleep(max(0.0, at - time.time()))
    before = stored = (await bus.js.stream_info(subjects.REFRESH)).state.messages
    async with asyncio.timeout(50):
        while stored < before + JOBS:
            await asyncio.sleep(0.05)
            stored = (await bus.js.stream_info(subjects.REFRESH)).state.messages
    return (stored - before) / (time.time() - at)
