"""The scheduler's application: syncs the settings' jobs, follows the bucket, and runs the clock. Needs NATS and nothing else."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from contracts import subjects
from services.runtime.bus import Bus, ClockSkewError, check_clock_skew, connect, wait_until_provisioned
from services.runtime.health import STATUS_ASK, Health
from services.runtime.jobs.store import JOBS_STREAM
from services.runtime.schedules.calendar_store import SESSIONS_STREAM
from services.runtime.settings import Settings
from services.scheduler import SERVICE
from services.scheduler.clock import Clock, utc_now
from services.scheduler.on_job import JobWatcher
from services.scheduler.on_run_events import RunWatcher
from services.scheduler.on_trading_sessions import CalendarWatcher
from services.scheduler.renew_sessions import renew_forever
from services.scheduler.settings_jobs import settings_jobs
from services.scheduler.sync_jobs import sync_settings_jobs

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
            await _set_up_and_run(bus, health, settings)
        health.ready("clock", True)
        log.info("clock_disabled", reason="enabled = false under [scheduler]")
        await asyncio.Event().wait()


async def run_clock(bus: Bus, clock: Clock) -> None:
    """Run a clock on the jobs, the trading sessions and the finished runs of this server."""
    calendars = CalendarWatcher(bus, clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.run())
        group.create_task(JobWatcher(bus, clock, calendars).run())
        group.create_task(calendars.run())
        group.create_task(RunWatcher(bus, clock).run())
        group.create_task(renew_forever(bus, calendars))


async def _set_up_and_run(bus: Bus, health: Health, settings: Settings) -> None:
    health.ready("clock", False, "waiting for the streams: run `quotebus migrate`")
    await wait_until_provisioned(bus.js, [subjects.REFRESH, subjects.RUNS, JOBS_STREAM, SESSIONS_STREAM])
    while not await _setup_once(bus, settings):
        pass
    await run_clock(bus, Clock(bus, health))


async def _setup_once(bus: Bus, settings: Settings) -> bool:
    try:
        with _warn_on_skew():
            await check_clock_skew(bus)
        await sync_settings_jobs(bus.nc, await settings_jobs(bus.js, settings), utc_now())
    except (NatsError, OSError, TimeoutError) as error:
        log.warning("jobs_sync_failed", error=f"{type(error).__name__}: {error}", retry_in_s=_RETRY_S)
        await asyncio.sleep(_RETRY_S)
        return False
    return True


@contextmanager
def _warn_on_skew() -> Iterator[None]:
    try:
        yield
    except ClockSkewError as error:
        # It asks early or late by so much, but no slot twice: better than not at all.
        log.warning("clock_skewed", error=str(error))
