"""Handles the end of runs: the slots of jobs that depend on the run's job fall due."""

import asyncio
from contextlib import aclosing
from datetime import timedelta

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import DeliverPolicy

from contracts import subjects
from contracts.message import decode
from contracts.run_events import RunFinished
from services.runtime.bus import Bus
from services.runtime.follow import follow_stream, read_stream
from services.scheduler.clock import Clock
from services.scheduler.due import slots_start
from services.scheduler.scheduled_job import ScheduledJob

_RETRY_S = 1.0
# A run is over before that is published, by a clock that may differ from this one's.
_MAX_PUBLISH_DELAY = timedelta(seconds=60)

log = structlog.get_logger()


class RunWatcher:
    """Gives a clock the ends of runs: each new one as it comes, and to a newly scheduled job those since its last slot."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._following = asyncio.Event()

    async def run(self) -> None:
        """Follow the stream of runs for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._load_past_runs())

    async def _follow(self) -> None:
        finished = subjects.run("finished", "*")
        async with aclosing(
            follow_stream(self._bus.nc, subjects.RUNS, finished, DeliverPolicy.NEW, patient=True)
        ) as batches:  # fmt: skip
            async for batch in batches:
                if batch.missed is not None:
                    self._forget_past_runs()
                # All at once: after an outage one late request answers to all of them.
                for message in batch.messages:
                    self._on_finished(message)
                # From here on none is left out, so what is loaded now leaves no gap.
                self._following.set()

    async def _load_past_runs(self) -> None:
        await self._following.wait()
        while True:
            await self._clock.dependents_changed.wait()
            self._clock.dependents_changed.clear()
            try:
                for scheduled in self._clock.dependents():
                    await self._load(scheduled)
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("runs_read_failed", error=f"{type(error).__name__}: {error}", retry_in_s=_RETRY_S)
                self._clock.dependents_changed.set()
                await asyncio.sleep(_RETRY_S)

    async def _load(self, scheduled: ScheduledJob) -> None:
        if scheduled.dependent is None or scheduled.job.after is None or scheduled.dependent.runs_loaded:
            return
        await self._clock.load_last(scheduled)
        start = slots_start(scheduled.job, scheduled.last.slot, self._clock.now()) - _MAX_PUBLISH_DELAY
        subject = subjects.run("finished", scheduled.job.after)
        for message in [message async for message in read_stream(self._bus.nc, subjects.RUNS, subject, start)]:
            self._on_finished(message)
        scheduled.dependent.runs_loaded = True

    def _forget_past_runs(self) -> None:
        for scheduled in self._clock.dependents():
            if scheduled.dependent is not None:
                scheduled.dependent.runs_loaded = False
        self._clock.dependents_changed.set()

    def _on_finished(self, message: Msg) -> None:
        try:
            finished = decode(message.data, RunFinished)
        except msgspec.MsgspecError as error:
            log.warning("run_finished_malformed", subject=message.subject, error=str(error))
            return
        if finished.job is not None:
            self._clock.upstream_finished(finished.job, finished.finished_at)
