"""The clock: a heap of the instants at which jobs fall due, and workers that publish a request for each slot that is due."""

import asyncio
import heapq
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count

import structlog
from prometheus_client import Counter, Histogram

from contracts.job import Job
from services.runtime.bus import Bus
from services.runtime.health import Health
from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.sessions import Calendars
from services.scheduler.dependent_schedule import DependentSchedule
from services.scheduler.due import Due, due, next_wakeup, slots_start
from services.scheduler.missed_slots import missed_slots_before, publish_missed_best_effort
from services.scheduler.publish_request import LastRequest, last_request, publish_request
from services.scheduler.scheduled_job import ScheduledJob

SLOTS_PUBLISHED = Counter("quotebus_slots_asked_total", "Slots this clock published a request for.", ["late"])
SLOTS_MISSED = Counter("quotebus_slots_missed_total", "Slots nobody asked for in time, as this clock found them.")
SLOT_DELAY = Histogram("quotebus_slot_delay_seconds", "From when a slot was due to its stored request; late ones left out.")
WORKERS = 64
# The wall clock may be set, and a laptop sleep: look at it again at least so often. Costs nothing while nothing is due.
LONGEST_SLEEP_S = 1.0
_TRIES = 5

log = structlog.get_logger()


def utc_now() -> datetime:
    """Read the system's clock."""
    return datetime.now(UTC)


class Clock:
    """Publishes a request for each slot of its jobs, once whatever other clocks do; early or late when `now` is wrong.

    `dependents_changed`: set when a job with `after` was scheduled, which has yet to be given the runs of its upstream job.
    """

    def __init__(
        self, bus: Bus, health: Health, now: Callable[[], datetime] = utc_now, *, workers: int = WORKERS,
        longest_sleep_s: float = LONGEST_SLEEP_S,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._health = health
        self.now = now
        self._workers = workers
        self._longest_sleep_s = longest_sleep_s
        self.dependents_changed = asyncio.Event()
        self._jobs: dict[str, ScheduledJob] = {}
        self._dependents: dict[str, ScheduledJob] = {}
        # When, which entry, which job; only a job's newest entry counts.
        self._heap: list[tuple[datetime, int, str]] = []
        self._number = count()
        self._due: asyncio.Queue[ScheduledJob] = asyncio.Queue()
        self._wake = asyncio.Event()
        bus.on_reconnect.append(self._wake.set)

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs that are scheduled."""
        return list(self._jobs)

    @property
    def definitions(self) -> list[Job]:
        """The jobs that are scheduled."""
        return [scheduled.job for scheduled in self._jobs.values()]

    def dependents(self) -> list[ScheduledJob]:
        """The jobs with `after`."""
        return list(self._dependents.values())

    def schedule(self, job: Job, calendars: Calendars) -> None:
        """Publish the job's slots from now on, also if it had another definition; it waits while its calendar is missing.

        Raises:
            ValueError: its schedule is none; the text names the field.
        """
        dependent = None
        if job.after is not None:
            every = timedelta(seconds=job.at_least_every_s) if job.at_least_every_s else None
            dependent = DependentSchedule(job.after, job.enabled_at or self.now(), every)
        scheduled = ScheduledJob(job, schedule_of(job, calendars, dependent), dependent)
        if (before := self._jobs.get(job.id)) is not None:
            scheduled.reported_until = before.reported_until
            scheduled.set_last(before.last)
        self._jobs[job.id] = scheduled
        self._dependents.pop(job.id, None)
        if dependent is not None:
            self._dependents[job.id] = scheduled
            self.dependents_changed.set()
        self._push(scheduled, self.now())

    def stop(self, job: str) -> None:
        """Publish no more slots of this job, if it was scheduled."""
        self._jobs.pop(job, None)
        self._dependents.pop(job, None)

    def upstream_finished(self, job: str, at: datetime) -> None:
        """Give the end of a run of this job to the jobs that depend on it."""
        for scheduled in self.dependents():
            # A busy one looks for itself when its worker is done.
            if scheduled.job.after == job and scheduled.dependent and scheduled.dependent.add_run(at) and not scheduled.busy:
                self._push(scheduled, self.now())

    async def load_last(self, scheduled: ScheduledJob) -> None:
        """Load the newest request of the job, unless it is known.

        Raises:
            nats.errors.Error: the server did not answer.
        """
        if scheduled.last_loaded:
            return
        found = await last_request(self._bus.js, scheduled.job.id)
        # What was once published stays published, even when the stream has lost it.
        slots = [slot for slot in (found.slot, scheduled.last.slot) if slot is not None]
        scheduled.set_last(LastRequest(found.sequence, max(slots, default=None)))
        scheduled.last_loaded = True

    async def run(self) -> None:
        """Publish for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())
            while True:
                connected = self._bus.nc.is_connected
                self._health.ready("clock", connected, "not connected to NATS: slots wait")
                if connected:
                    # While there is no server nothing is dispatched: afterwards one late request serves all of the outage.
                    self._dispatch_due()
                await self._sleep(connected)

    def _push(self, scheduled: ScheduledJob, at: datetime) -> None:
        if self._jobs.get(scheduled.job.id) is scheduled:
            scheduled.heap_entry = next(self._number)
            heapq.heappush(self._heap, (at, scheduled.heap_entry, scheduled.job.id))
            if self._heap[0][1] == scheduled.heap_entry:
                self._wake.set()
            if len(self._heap) > 2 * len(self._jobs) + 64:
                self._heap = [entry for entry in self._heap if self._is_current(entry[1], entry[2])]
                heapq.heapify(self._heap)

    def _is_current(self, entry: int, job: str) -> bool:
        return job in self._jobs and self._jobs[job].heap_entry == entry

    def _dispatch_due(self) -> None:
        now = self.now()
        while self._heap and self._heap[0][0] <= now:
            _, entry, job = heapq.heappop(self._heap)
            if self._is_current(entry, job):
                self._jobs[job].busy = True
                self._due.put_nowait(self._jobs[job])

    async def _sleep(self, connected: bool) -> None:
        wait_s = self._longest_sleep_s
        if connected and self._heap:
            wait_s = min(wait_s, max(0.0, (self._heap[0][0] - self.now()).total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        self._wake.clear()

    async def _worker(self) -> None:
        while True:
            scheduled = await self._due.get()
            again: datetime | None = self.now()
            if self._bus.nc.is_connected:
                try:
                    again = await self._publish_due(scheduled)
                    scheduled.failures = 0
                except Exception as error:  # a job that cannot be published must not stop the others
                    again = self.now() + scheduled.backoff(error)
            scheduled.busy = False
            if again is not None:
                self._push(scheduled, again)

    async def _publish_due(self, scheduled: ScheduledJob) -> datetime | None:
        """Publish what is due; give the instant to look again, if there is one. Tries again when another clock was quicker."""
        now = self.now()
        for _ in range(_TRIES):
            await self.load_last(scheduled)
            now = self.now()
            what = due(scheduled.job, scheduled.schedule, scheduled.last.slot, now)
            if what is None:
                break
            if not what.publish:
                await self._record(scheduled, what, now)
                break
            published = await publish_request(self._bus, scheduled.job, what, scheduled.last, now)
            if published is not None:
                await self._record(scheduled, what, now)
                scheduled.set_last(published)
                break
            scheduled.last_loaded = False
        try:
            return next_wakeup(scheduled.job, scheduled.schedule, scheduled.last.slot, now)
        except ValueError as reason:
            # It is scheduled again when its calendar is there, and pushed when a run of its upstream job has finished.
            log.debug("job_waits", job=scheduled.job.id, reason=str(reason))
            return None

    async def _record(self, scheduled: ScheduledJob, what: Due, now: datetime) -> None:
        """Each missed slot is counted once, by the clock that publishes the next one or lets it go."""
        after = slots_start(scheduled.job, scheduled.last.slot, now)
        after = max(after, scheduled.reported_until or after)
        missed = scheduled.schedule.count(after, what.slot) - what.publish
        scheduled.reported_until = what.slot
        record_slot(scheduled.job, what, missed, self.now())
        if missed > 0:
            await publish_missed_best_effort(self._bus, scheduled, missed_slots_before(what, after, now))


def record_slot(job: Job, what: Due, missed: int, now: datetime) -> None:
    """Log and count what became of a slot, and of the `missed` ones before it that were not recorded already.

    `now`: when its request was stored.
    """
    SLOTS_MISSED.inc(max(0, missed))
    facts = {"job": job.id, "slot": what.slot.isoformat(), "missed_slots": what.missed}
    if not what.publish:
        if missed > 0:
            log.warning("slots_missed", **{**facts, "missed_slots": missed}, reason="older than the job catches up")
        return
    SLOTS_PUBLISHED.labels(str(what.late).lower()).inc()
    if not what.late:
        SLOT_DELAY.observe(max(0.0, (now - what.at).total_seconds()))
    (log.warning if what.late or what.missed else log.debug)("slot_asked", **facts, late=what.late)
