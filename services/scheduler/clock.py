"""The clock: a heap of the instants at which jobs fall due, and a few askers that publish what they find due then."""

import asyncio
import heapq
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter, Histogram

from contracts.job import Job
from services.runtime.bus import Bus
from services.runtime.health import Health
from services.runtime.slots import Schedule
from services.scheduler.ask import LastAsked, ask, last_asked
from services.scheduler.due import Due, due, since

ASKED = Counter("quotebus_slots_asked_total", "Slots this clock published a request for.", ["late"])
MISSED = Counter("quotebus_slots_missed_total", "Slots nobody asked for in time, as this clock found them.")
BEHIND = Histogram("quotebus_slot_delay_seconds", "From a slot to its stored request; late ones after an outage left out.")
ASKS_AT_ONCE = 64
# The wall clock may be set, and a laptop sleep: look at it again at least so often. Costs nothing while nothing is due.
_LONGEST_SLEEP_S = 1.0
_LONGEST_RETRY_S = 30.0
_TRIES = 5

log = structlog.get_logger()


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


@dataclass(eq=False, slots=True)
class _Running:
    """A job that ticks. `looked`: whether `last` was read from the stream; `said`: missed slots up to here were reported."""

    job: Job
    schedule: Schedule
    last: LastAsked = field(default_factory=LastAsked)
    looked: bool = False
    said: datetime | None = None
    failures: int = 0


class Clock:
    """Asks for the jobs it was given, each slot once whatever other clocks do. `now` may be wrong: then it asks early or late."""

    def __init__(self, bus: Bus, health: Health, now: Callable[[], datetime] = utc_now) -> None:
        self._bus = bus
        self._health = health
        self._now = now
        self._jobs: dict[str, _Running] = {}
        self._heap: list[tuple[datetime, int, _Running]] = []
        self._number = count()
        self._due: asyncio.Queue[_Running] = asyncio.Queue()
        self._wake = asyncio.Event()
        bus.on_reconnect.append(self._wake.set)

    @property
    def jobs(self) -> list[str]:
        """The jobs that tick."""
        return list(self._jobs)

    def start(self, job: Job, schedule: Schedule) -> None:
        """Tick for this job from now on, also if it ticked before with another definition."""
        before = self._jobs.get(job.id)
        running = _Running(job, schedule)
        if before is not None:
            running.last, running.said = before.last, before.said
        self._jobs[job.id] = running
        self._push(running, self._now())
        self._wake.set()

    def stop(self, job: str) -> None:
        """Tick no more for this job, if it did."""
        self._jobs.pop(job, None)

    async def run(self) -> None:
        """Ask for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(ASKS_AT_ONCE):
                group.create_task(self._ask_in_turn())
            while True:
                connected = self._bus.nc.is_connected
                self._health.ready("clock", connected, "not connected to NATS: slots wait")
                if connected:
                    # While there is no server nothing is handed out: afterwards one late request serves all of the outage.
                    self._hand_out()
                await self._sleep(connected)

    def _push(self, running: _Running, at: datetime) -> None:
        if self._jobs.get(running.job.id) is running:
            heapq.heappush(self._heap, (at, next(self._number), running))

    def _hand_out(self) -> None:
        now = self._now()
        while self._heap and self._heap[0][0] <= now:
            running = heapq.heappop(self._heap)[2]
            if self._jobs.get(running.job.id) is running:
                self._due.put_nowait(running)

    async def _sleep(self, connected: bool) -> None:
        wait_s = _LONGEST_SLEEP_S
        if connected and self._heap:
            wait_s = min(wait_s, max(0.0, (self._heap[0][0] - self._now()).total_seconds()))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), wait_s)
        self._wake.clear()

    async def _ask_in_turn(self) -> None:
        while True:
            running = await self._due.get()
            again = self._now()
            if self._bus.nc.is_connected:
                try:
                    again = await self._ask(running)
                    running.failures = 0
                except Exception as error:  # a job that cannot be asked for must not stop the others
                    again = self._postponed(running, error)
            self._push(running, again)
            self._wake.set()

    async def _ask(self, running: _Running) -> datetime:
        """Ask for what is due, and give the instant to look again. The loop turns when another clock was quicker."""
        now = self._now()
        for _ in range(_TRIES):
            if not running.looked:
                await self._look(running)
            now = self._now()
            what = due(running.job, running.schedule, running.last.slot, now)
            if what is None:
                break
            if not what.ask:
                self._report(running, what, now)
                break
            mine = await ask(self._bus, running.job, what, running.last, now)
            if mine is not None:
                self._report(running, what, now)
                running.last = mine
                break
            running.looked = False
        return running.schedule.following(max(now, running.last.slot or now))

    async def _look(self, running: _Running) -> None:
        found = await last_asked(self._bus.js, running.job.id)
        # What was once asked stays asked, even when the stream has lost it.
        slots = [slot for slot in (found.slot, running.last.slot) if slot is not None]
        running.last, running.looked = LastAsked(found.sequence, max(slots, default=None)), True

    def _report(self, running: _Running, what: Due, now: datetime) -> None:
        """Say what became of the slots up to this one: each missed slot is counted once, by whoever asks or lets it go."""
        after = since(running.job, running.last.slot, now)
        missed = running.schedule.count(max(after, running.said or after), what.slot) - what.ask
        running.said = what.slot
        MISSED.inc(max(0, missed))
        facts = {"job": running.job.id, "slot": what.slot.isoformat(), "missed_slots": what.missed}
        if not what.ask:
            if missed > 0:
                log.warning("slots_missed", **{**facts, "missed_slots": missed}, reason="older than the job catches up")
            return
        ASKED.labels(str(what.late).lower()).inc()
        if not what.late:
            BEHIND.observe(max(0.0, (self._now() - what.slot).total_seconds()))
        (log.warning if what.late or what.missed else log.debug)("slot_asked", **facts, late=what.late)

    def _postponed(self, running: _Running, error: Exception) -> datetime:
        """When to try again after a failure. The request may be stored all the same, so the stream is looked at first."""
        running.looked = False
        running.failures += 1
        wait_s = min(_LONGEST_RETRY_S, 0.5 * 2**running.failures)
        if running.failures % 10 == 1 or not isinstance(error, NatsError):
            log.warning("ask_failed", job=running.job.id, error=f"{type(error).__name__}: {error}", retry_in_s=wait_s)
        return self._now() + timedelta(seconds=wait_s)
