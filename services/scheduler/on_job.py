"""What follows when a job is written to the bucket or deleted: the clock starts, changes or stops it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from prometheus_client import Gauge

from contracts.job import Job
from services.runtime.bus import Bus
from services.runtime.job_entries import JOBS_STREAM, JOBS_WRITTEN, Entry, entries
from services.runtime.schedules import schedule_of
from services.scheduler.begin import begin
from services.scheduler.clock import Clock
from services.scheduler.on_run_finished import RunReader
from services.scheduler.on_sessions import SessionReader

JOBS = Gauge("quotebus_jobs", "Jobs by state.", ["state"])
REREAD_S = 30.0
_RETRY_S = 1.0
# A hint comes when somebody writes, which is before the write is stored.
_AFTER_HINT_S = (0.02, 0.2, 1.0)

log = structlog.get_logger()


class JobReader:
    """Keeps a clock's jobs as the bucket has them.

    Writes to the bucket are heard as plain messages, which is a hint and no more: such a message may be lost. What counts is
    the bucket's own last revision, compared after each hint and every 30 s; after a reconnect everything is read again.
    """

    def __init__(self, bus: Bus, clock: Clock, sessions: SessionReader, runs: RunReader) -> None:
        self._bus = bus
        self._clock = clock
        self._sessions = sessions
        self._runs = runs
        self._revision = 0
        self._known: dict[str, int] = {}
        self._states: dict[str, str] = {}
        self._all = True
        self._hint = asyncio.Event()
        bus.on_reconnect.append(self._read_all)

    async def run(self) -> None:
        """Read for ever."""
        sub = await self._bus.nc.subscribe(JOBS_WRITTEN, cb=self._on_write)
        try:
            waits: Sequence[float] = ()
            while True:
                waits = await self._follow(waits)
        finally:
            with suppress(NatsError):
                await sub.unsubscribe()

    async def read(self) -> bool:
        """Take over what changed since the last time; whether anything did.

        Raises:
            nats.errors.Error: the server did not answer.
        """
        everything, self._all = self._all, False
        try:
            newest = (await self._bus.js.stream_info(JOBS_STREAM)).state.last_seq
            # A bucket that was deleted and made anew begins at 1 again.
            everything = everything or newest < self._revision
            if newest == self._revision and not everything:
                return False
            seen = set()
            async for entry in entries(self._bus.js, 0 if everything else self._revision):
                self._on_job(entry)
                seen.add(entry.key)
                newest = max(newest, entry.revision)
        except BaseException:
            self._all = everything
            raise
        for key in self._known.keys() - seen if everything else ():
            self._forget(key)
        self._revision = newest
        for state in ("ticking", "paused", "malformed"):
            JOBS.labels(state).set(sum(each == state for each in self._states.values()))
        return bool(seen)

    async def _follow(self, waits: Sequence[float]) -> Sequence[float]:
        """Read, wait for a reason to read again, and give the waits until the reads after that."""
        try:
            changed = await self.read()
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("jobs_unread", error=f"{type(error).__name__}: {error}", retry_in_s=_RETRY_S)
            await asyncio.sleep(_RETRY_S)
            return waits
        if waits and not changed:
            await asyncio.sleep(waits[0])
            return waits[1:]
        with suppress(TimeoutError):
            async with asyncio.timeout(REREAD_S):
                await self._hint.wait()
        hinted = self._hint.is_set()
        self._hint.clear()
        return _AFTER_HINT_S if hinted else ()

    def _on_job(self, entry: Entry) -> None:
        if self._known.get(entry.key) == entry.revision:
            return
        if entry.body is None:
            self._forget(entry.key)
            return
        self._known[entry.key] = entry.revision
        try:
            job = entry.job()
            self._begin_or_stop(job)
        except ValueError as error:
            # Its former definition does not go on: what runs is what stands in the bucket.
            self._clock.stop(entry.key)
            self._states[entry.key] = "malformed"
            log.warning("job_malformed", job=entry.key, error=str(error), action="correct it or delete it; it asks for nothing")
            return
        self._states[job.id] = "ticking" if job.enabled else "paused"
        log.info("job_read", job=job.id, enabled=job.enabled, paused_reason=job.paused_reason)

    def _begin_or_stop(self, job: Job) -> None:
        if not job.enabled:
            schedule_of(job)  # malformed is malformed, also while nobody needs it
            self._clock.stop(job.id)
            return
        begin(self._clock, job, self._sessions.known)
        if job.calendar is not None and job.calendar not in self._sessions.known:
            self._sessions.look()
        if job.after is not None:
            self._runs.look()

    def _forget(self, key: str) -> None:
        self._known.pop(key, None)
        self._states.pop(key, None)
        self._clock.stop(key)
        log.info("job_gone", job=key)

    def _read_all(self) -> None:
        self._all = True
        self._hint.set()

    async def _on_write(self, _msg: Msg) -> None:
        self._hint.set()
