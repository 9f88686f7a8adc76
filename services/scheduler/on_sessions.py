"""What follows when sessions are written to their bucket: the jobs of those exchanges count by them."""

import asyncio
from contextlib import suppress

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from services.runtime.bus import Bus
from services.runtime.sessions import Calendar
from services.runtime.sessions_bucket import SESSIONS_WRITTEN, read_calendars
from services.scheduler.begin import begin
from services.scheduler.clock import Clock

REREAD_S = 60.0
_RETRY_S = 1.0
# A hint comes when somebody writes, which is before the write is stored.
_AFTER_HINT_S = 0.05

log = structlog.get_logger()


class SessionReader:
    """Keeps the sessions of the exchanges that a clock's jobs name. `known`: by code; those that are missing are not in it."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self.known: dict[str, Calendar] = {}
        self.missing = asyncio.Event()
        self._bus = bus
        self._clock = clock
        self._hint = asyncio.Event()
        bus.on_reconnect.append(self._hint.set)

    @property
    def wanted(self) -> set[str]:
        """The exchanges that jobs name."""
        return {job.calendar for job in self._clock.definitions if job.calendar is not None}

    def look(self) -> None:
        """Read soon: there is a job of an exchange that is not known."""
        self._hint.set()

    async def run(self) -> None:
        """Read for ever: after each hint, after a reconnect, and once a minute."""
        sub = await self._bus.nc.subscribe(SESSIONS_WRITTEN, cb=self._on_write)
        try:
            while True:
                wait_s = REREAD_S
                try:
                    await self.read()
                except (NatsError, OSError, TimeoutError) as error:
                    log.warning("sessions_unread", error=f"{type(error).__name__}: {error}", retry_in_s=_RETRY_S)
                    wait_s = _RETRY_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._hint.wait()
                        await asyncio.sleep(_AFTER_HINT_S)
                self._hint.clear()
        finally:
            with suppress(NatsError):
                await sub.unsubscribe()

    async def read(self) -> None:
        """Take over what changed.

        Raises:
            nats.errors.Error: the server did not answer, or the bucket is missing.
        """
        wanted = self.wanted
        found = await read_calendars(self._bus.js, wanted) if wanted else {}
        changed = {code for code, calendar in found.items() if not self._is_known(code, calendar)}
        self.known = {code: found[code] if code in changed else self.known[code] for code in found}
        for job in self._clock.definitions:
            if job.calendar in changed:
                begin(self._clock, job, self.known)
        for code in changed:
            log.info("sessions_read", calendar=code, until=found[code].last.isoformat())
        if wanted - found.keys():
            self.missing.set()

    def _is_known(self, code: str, calendar: Calendar) -> bool:
        return code in self.known and self.known[code].made_at == calendar.made_at

    async def _on_write(self, _msg: Msg) -> None:
        self._hint.set()
