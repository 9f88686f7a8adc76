"""Handles the jobs of the bucket: the clock schedules one that is written and stops one that is paused, malformed or deleted."""

from collections import Counter
from contextlib import aclosing

import structlog
from prometheus_client import Gauge

from contracts.job import Job
from contracts.subjects import JOBS_BUCKET
from services.runtime.bus import Bus
from services.runtime.follow import BucketEntry, follow_bucket
from services.runtime.jobs.store import job_of
from services.runtime.schedules.build import schedule_of
from services.scheduler.clock import Clock
from services.scheduler.on_trading_sessions import CalendarWatcher

JOBS = Gauge("quotebus_jobs", "Jobs by state.", ["state"])

log = structlog.get_logger()


class JobWatcher:
    """Keeps a clock's jobs as the bucket has them."""

    def __init__(self, bus: Bus, clock: Clock, calendars: CalendarWatcher) -> None:
        self._bus = bus
        self._clock = clock
        self._calendars = calendars
        self._states: dict[str, str] = {}

    async def run(self) -> None:
        """Follow the bucket for ever."""
        async with aclosing(follow_bucket(self._bus.nc, JOBS_BUCKET)) as changes:
            async for change in changes:
                for entry in change.entries:
                    self._apply(entry)
                states = Counter(self._states.values())
                for state in ("ticking", "paused", "malformed"):
                    JOBS.labels(state).set(states[state])

    def _apply(self, entry: BucketEntry) -> None:
        if entry.value is None:
            self._states.pop(entry.key, None)
            self._clock.stop(entry.key)
            log.info("job_gone", job=entry.key)
            return
        try:
            job = job_of(entry)
            self._schedule_or_stop(job)
        except ValueError as error:
            # Its former definition does not go on: the clock does what stands in the bucket.
            self._clock.stop(entry.key)
            self._states[entry.key] = "malformed"
            log.warning("job_malformed", job=entry.key, error=str(error), action="correct it or delete it; it asks for nothing")
            return
        self._states[entry.key] = "ticking" if job.enabled else "paused"
        log.info("job_read", job=job.id, enabled=job.enabled, paused_reason=job.paused_reason)

    def _schedule_or_stop(self, job: Job) -> None:
        if not job.enabled:
            schedule_of(job)  # malformed is malformed, also while nobody needs it
            self._clock.stop(job.id)
            return
        self._clock.schedule(job, self._calendars.calendars)
        if job.calendar is not None and job.calendar not in self._calendars.calendars:
            self._calendars.refresh()
