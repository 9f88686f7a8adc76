"""What follows when a run is over: the jobs that come after it fall due."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from contracts import subjects
from contracts.message import decode
from contracts.run_events import RunFinished
from services.runtime.bus import Bus
from services.runtime.stored import stored
from services.scheduler.clock import Clock
from services.scheduler.due import since
from services.scheduler.running import Running

REREAD_S = 30.0
_RETRY_S = 1.0
# A run is over before that is published, by a clock that may differ from this one's.
_BEFORE = timedelta(seconds=60)

log = structlog.get_logger()


class RunReader:
    """Tells a clock of finished runs, each however often it is told.

    The plain message is heard within a millisecond and may be lost; what counts is the stream, which is read when a job begins
    to follow another, after a reconnect, and every 30 s if it has grown.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._wake = asyncio.Event()
        bus.on_reconnect.append(self._wake.set)

    def look(self) -> None:
        """Read the stream soon: there is a job that follows another."""
        self._wake.set()

    async def run(self) -> None:
        """Listen for ever."""
        sub = await self._bus.nc.subscribe(subjects.run("finished", "*"), cb=self._on_finished)
        try:
            while True:
                wait_s = REREAD_S if await self._read_all() else _RETRY_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            with suppress(NatsError):
                await sub.unsubscribe()

    async def _read_all(self) -> bool:
        try:
            for running in self._clock.followers():
                await self._read(running)
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("runs_unread", error=f"{type(error).__name__}: {error}", retry_in_s=_RETRY_S)
            return False
        return True

    async def _read(self, running: Running) -> None:
        """Tell of what the stream has gained for this job: at first, of all that was over since its last slot."""
        if running.chained is None or running.job.after is None:
            return
        subject = subjects.run("finished", running.job.after)
        try:
            newest = (await self._bus.js.get_last_msg(subjects.RUNS, subject)).seq or 0
        except NotFoundError:
            return
        if newest == running.chained.read_to:
            return
        await self._clock.look(running)
        began = since(running.job, running.last.slot, self._clock.now()) - _BEFORE
        start = running.chained.read_to + 1 if running.chained.read_to else began
        # All at once: after an outage one late request answers to all of them.
        for msg in [msg async for msg in stored(self._bus.js, subjects.RUNS, subject, start)]:
            self._tell(msg)
        running.chained.read_to = newest

    async def _on_finished(self, msg: Msg) -> None:
        self._tell(msg)

    def _tell(self, msg: Msg) -> None:
        try:
            finished = decode(msg.data, RunFinished)
        except msgspec.MsgspecError as error:
            log.warning("run_finished_malformed", subject=msg.subject, error=str(error))
            return
        if finished.job is not None:
            self._clock.finished(finished.job, finished.finished_at)
