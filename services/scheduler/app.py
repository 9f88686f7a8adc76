"""The scheduler's application: seeds the settings' jobs, reads the bucket, and lets the clock run. Needs NATS and nothing else."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from contracts import subjects
from services.runtime.bus import Bus, connect
from services.runtime.health import STATUS_ASK, Health
from services.runtime.job_entries import JOBS_STREAM
from services.runtime.sessions_bucket import SESSIONS_STREAM
from services.runtime.settings import Settings
from services.runtime.skew import ClockSkewError, refuse_skewed_clock
from services.runtime.wait_for_streams import wait_until_provisioned
from services.scheduler.clock import Clock, utc_now
from services.scheduler.on_job import JobReader
from services.scheduler.on_run_finished import RunReader
from services.scheduler.on_sessions import SessionReader
from services.scheduler.renew_sessions import keep_renewed
from services.scheduler.seed import seed
from services.scheduler.settings_jobs import settings_jobs

SERVICE = "scheduler"
_RETRY_S = 1.0

log = structlog.get_logger()


async def run(settings: Settings) -> None:
    """Tick until cancelled."""
    health = Health(SERVICE)

    async def tell(msg: Msg) -> None:
        await msg.respond(json.dumps(health.report()).encode())

    async with health.serve(settings.health), connect(settings.nats, SERVICE) as bus:
        await bus.nc.subscribe(STATUS_ASK, cb=tell)
        if settings.scheduler.enabled:
            await _prepare_and_tick(bus, health, settings)
        health.ready("clock", True)
        log.info("clock_disabled", reason="enabled = false under [scheduler]")
        await asyncio.Event().wait()


async def tick(bus: Bus, clock: Clock) -> None:
    """Let a clock run on what the bucket of jobs, the sessions and the runs of this server say."""
    sessions, runs = SessionReader(bus, clock), RunReader(bus, clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.run())
        group.create_task(JobReader(bus, clock, sessions, runs).run())
        group.create_task(sessions.run())
        group.create_task(runs.run())
        group.create_task(keep_renewed(bus, sessions))


async def _prepare_and_tick(bus: Bus, health: Health, settings: Settings) -> None:
    health.ready("clock", False, "waiting for the streams: run `quotebus migrate`")
    await wait_until_provisioned(bus.js, [subjects.REFRESH, subjects.RUNS, JOBS_STREAM, SESSIONS_STREAM])
    while not await _prepared(bus, settings):
        pass
    await tick(bus, Clock(bus, health))


async def _prepared(bus: Bus, settings: Settings) -> bool:
    try:
        with _skew_said():
            await refuse_skewed_clock(bus)
        await seed(bus.js, await settings_jobs(bus.js, settings), utc_now())
    except (NatsError, OSError, TimeoutError) as error:
        log.warning("jobs_unseeded", error=f"{type(error).__name__}: {error}", retry_in_s=_RETRY_S)
        await asyncio.sleep(_RETRY_S)
        return False
    return True


@contextmanager
def _skew_said() -> Iterator[None]:
    try:
        yield
    except ClockSkewError as error:
        # It asks early or late by so much, but no slot twice: better than not at all.
        log.warning("clock_skewed", error=str(error))
