"""The scheduler's application: seeds the settings' jobs, reads the bucket, and lets the clock run. Needs NATS and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import structlog
from faststream import FastStream
from nats.errors import Error as NatsError

from contracts import subjects
from contracts.job import Job
from services.runtime.bus import Bus, connect
from services.runtime.health import Health
from services.runtime.job_entries import JOBS_STREAM
from services.runtime.main import Service, StartRefusedError, light_broker, watched
from services.runtime.provision import wait_until_provisioned
from services.runtime.schedules import schedule_of
from services.runtime.sessions_bucket import SESSIONS_STREAM
from services.runtime.settings import Settings
from services.runtime.skew import ClockSkewError, refuse_skewed_clock
from services.scheduler.clock import Clock, utc_now
from services.scheduler.on_job import JobReader
from services.scheduler.on_run_finished import RunReader
from services.scheduler.on_sessions import SessionReader
from services.scheduler.renew_sessions import keep_renewed
from services.scheduler.seed import seed

SERVICE = "scheduler"
_RETRY_S = 1.0

log = structlog.get_logger()


def build(settings: Settings) -> FastStream:
    """The application for these settings.

    Raises:
        StartRefusedError: a job of the settings has a schedule that cannot be; the text names job and field.
    """
    jobs = settings.jobs()
    for job in jobs:
        try:
            schedule_of(job)
        except ValueError as error:
            raise StartRefusedError(f"settings: {error}") from None
    health = Health(SERVICE)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with health.serve(settings.health), connect(settings.nats, SERVICE) as bus:
            parts = {"clock": _prepare_and_tick(bus, health, jobs)} if settings.scheduler.enabled else {}
            if not parts:
                health.ready("clock", True)
                log.info("clock_disabled", reason="enabled = false under [scheduler]")
            async with watched(health, parts, None):
                yield

    return Service(light_broker(settings, health), lifespan=lifespan, logger=None)


async def _prepare_and_tick(bus: Bus, health: Health, jobs: Sequence[Job]) -> None:
    health.ready("clock", False, "waiting for the streams: run `quotebus migrate`")
    await wait_until_provisioned(bus.js, [subjects.REFRESH, subjects.RUNS, JOBS_STREAM, SESSIONS_STREAM])
    while not await _prepared(bus, jobs):
        pass
    await tick(bus, Clock(bus, health))


async def tick(bus: Bus, clock: Clock) -> None:
    """Let a clock run on what the bucket of jobs, the sessions and the runs of this server say."""
    sessions, runs = SessionReader(bus, clock), RunReader(bus, clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.run())
        group.create_task(JobReader(bus, clock, sessions, runs).run())
        group.create_task(sessions.run())
        group.create_task(runs.run())
        group.create_task(keep_renewed(bus, sessions))


async def _prepared(bus: Bus, jobs: Sequence[Job]) -> bool:
    try:
        with _skew_said():
            await refuse_skewed_clock(bus)
        await seed(bus.js, jobs, utc_now())
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
