"""The clock: a heap of the instants at which jobs fall due, and a few askers that publish what they find due then."""

import asyncio
import heapq
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count

import structlog

from contracts.job import Job
from services.runtime.bus import Bus
from services.runtime.health import Health
from services.runtime.slots import Schedule
from services.scheduler.ask import LastAsked, ask, last_asked
from services.scheduler.chained import Chained
from services.scheduler.due import Due, due, next_look, since
from services.scheduler.missed import missed_before, report_missed
from services.scheduler.report import report
from services.scheduler.running import Running

ASKS_AT_ONCE = 64
# The wall clock may be set, and a laptop sleep: look at it again at least so often. Costs nothing while nothing is due.
LONGEST_SLEEP_S = 1.0
_TRIES = 5

log = structlog.get_logger()


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


class Clock:
    """Asks for the jobs it was given, each slot once whatever other clocks do. `now` may be wrong: then it asks early or late."""

    def __init__(
        self, bus: Bus, health: Health, now: Callable[[], datetime] = utc_now, *, asks_at_once: int = ASKS_AT_ONCE,
        longest_sleep_s: float = LONGEST_SLEEP_S,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._health = health
        self.now = now
        self._asks_at_once = asks_at_once
        self._longest_sleep_s = longest_sleep_s
        self._jobs: dict[str, Running] = {}
        self._followers: dict[str, Running] = {}
        # When, which turn of which job; only a job's newest turn counts.
        self._heap: list[tuple[datetime, int, str]] = []
        self._number = count()
        self._due: asyncio.Queue[Running] = asyncio.Queue()
        self._wake = asyncio.Event()
        bus.on_reconnect.append(self._wake.set)

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs that tick."""
        return list(self._jobs)

    @property
    def definitions(self) -> list[Job]:
        """The jobs that tick."""
        return [running.job for running in self._jobs.values()]

    def followers(self) -> list[Running]:
        """The jobs that follow another."""
        return list(self._followers.values())

    def start(self, job: Job, schedule: Schedule, chained: Chained | None = None) -> None:
        """Tick for this job from now on, also if it ticked before with another definition.

        `chained`: what a job that follows another learns of that one's runs; part of its schedule.
        """
        before = self._jobs.get(job.id)
        running = Running(job, schedule, chained)
        if before is not None:
            running.said = before.said
            running.remember(before.last)
        self._jobs[job.id] = running
        self._followers.pop(job.id, None)
        if chained is not None:
            self._followers[job.id] = running
        self._push(running, self.now())

    def stop(self, job: str) -> None:
        """Tick no more for this job, if it did."""
        self._jobs.pop(job, None)
        self._followers.pop(job, None)

    def finished(self, job: str, at: datetime) -> None:
        """Let the jobs that follow this one know that a run of it was over at this instant."""
        for running in self.followers():
            # One that is being asked for just now looks for itself when that is done.
            if running.job.after == job and running.chained and running.chained.finished(at) and not running.busy:
                self._push(running, self.now())

    async def look(self, running: Running) -> None:
        """Read what was asked last for the job, unless that is known."""
        if not running.looked:
            await self._look(running)

    async def run(self) -> None:
        """Ask for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._asks_at_once):
                group.create_task(self._ask_in_turn())
            while True:
                connected = self._bus.nc.is_connected
                self._health.ready("clock", connected, "not connected to NATS: slots wait")
                if connected:
                    # While there is no server nothing is handed out: afterwards one late request serves all of the outage.
                    self._hand_out()
                await self._sleep(connected)

    def _push(self, running: Running, at: datetime) -> None:
        if self._jobs.get(running.job.id) is running:
            running.turn = next(self._number)
            heapq.heappush(self._heap, (at, running.turn, running.job.id))
            if self._heap[0][1] == running.turn:
                self._wake.set()
            if len(self._heap) > 2 * len(self._jobs) + 64:
                self._heap = [entry for entry in self._heap if self._counts(entry[1], entry[2])]
                heapq.heapify(self._heap)

    def _counts(self, turn: int, job: str) -> bool:
        return job in self._jobs and self._jobs[job].turn == turn

    def _hand_out(self) -> None:
        now = self.now()
        while self._heap and self._heap[0][0] <= now:
            _, turn, job = heapq.heappop(self._heap)
            if self._counts(turn, job):
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

    async def _ask_in_turn(self) -> None:
        while True:
            running = await self._due.get()
            again: datetime | None = self.now()
            if self._bus.nc.is_connected:
                try:
                    again = await self._ask(running)
                    running.failures = 0
                except Exception as error:  # a job that cannot be asked for must not stop the others
                    again = self.now() + running.failed(error)
            running.busy = False
            if again is not None:
                self._push(running, again)

    async def _ask(self, running: Running) -> datetime | None:
        """Ask for what is due; give the instant to look again, if there is one. The loop turns when another clock was quicker."""
        now = self.now()
        for _ in range(_TRIES):
            await self.look(running)
            now = self.now()
            what = due(running.job, running.schedule, running.last.slot, now)
            if what is None:
                break
            if not what.ask:
                await self._report(running, what, now)
                break
            mine = await ask(self._bus, running.job, what, running.last, now)
            if mine is not None:
                await self._report(running, what, now)
                running.remember(mine)
                break
            running.looked = False
        try:
            return next_look(running.job, running.schedule, running.last.slot, now)
        except ValueError as reason:
            # Whoever knows more starts the job again, or tells of a run that it follows.
            log.debug("job_waits", job=running.job.id, reason=str(reason))
            return None

    async def _look(self, running: Running) -> None:
        found = await last_asked(self._bus.js, running.job.id)
        # What was once asked stays asked, even when the stream has lost it.
        slots = [slot for slot in (found.slot, running.last.slot) if slot is not None]
        running.remember(LastAsked(found.sequence, max(slots, default=None)))
        running.looked = True

    async def _report(self, running: Running, what: Due, now: datetime) -> None:
        """Each missed slot is counted once, by whoever asks or lets it go."""
        after = since(running.job, running.last.slot, now)
        after = max(after, running.said or after)
        missed = running.schedule.count(after, what.slot) - what.ask
        running.said = what.slot
        report(running.job, what, missed, self.now())
        if missed > 0:
            await report_missed(self._bus, running, missed_before(what, after, now))
