"""Handles the trading sessions of the bucket: the clock schedules the jobs of those exchanges by them."""

import asyncio
from contextlib import aclosing

import msgspec
import structlog

from contracts.message import decode
from contracts.subjects import SESSIONS_BUCKET
from contracts.trading_sessions import TradingSessions
from services.runtime.bus import Bus
from services.runtime.follow import BucketChanges, follow_bucket
from services.runtime.schedules.sessions import Calendar
from services.scheduler.clock import Clock

log = structlog.get_logger()


class CalendarWatcher:
    """Keeps the calendars that a clock's jobs name. `calendars`: by code, of those that are in the bucket.

    `missing`: set when a job names an exchange whose sessions are not in the bucket.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self.calendars: dict[str, Calendar] = {}
        self.missing = asyncio.Event()
        self._bus = bus
        self._clock = clock
        # A calendar is large, so one that no job names stays undecoded.
        self._bodies: dict[str, bytes] = {}
        self._caught_up = False

    @property
    def needed(self) -> set[str]:
        """The exchanges that jobs name."""
        return {job.calendar for job in self._clock.definitions if job.calendar is not None}

    async def run(self) -> None:
        """Follow the bucket for ever."""
        async with aclosing(follow_bucket(self._bus.nc, SESSIONS_BUCKET)) as changes:
            async for change in changes:
                self._take(change)
                self._caught_up = self._caught_up or change.caught_up
                self.refresh()

    def refresh(self) -> None:
        """Decode the calendars that jobs name since the last time."""
        needed = self.needed
        for code in sorted(needed & self._bodies.keys() - self.calendars.keys()):
            self._load(code)
        if self._caught_up and needed - self.calendars.keys():
            self.missing.set()

    def _take(self, change: BucketChanges) -> None:
        for entry in change.entries:
            self.calendars.pop(entry.key, None)
            self._bodies.pop(entry.key, None)
            if entry.value is not None:
                self._bodies[entry.key] = entry.value

    def _load(self, code: str) -> None:
        try:
            calendar = Calendar(decode(self._bodies[code], TradingSessions))
        except msgspec.MsgspecError as error:
            del self._bodies[code]
            log.warning("sessions_malformed", calendar=code, error=str(error), action="they are made anew")
            return
        self.calendars[code] = calendar
        for job in self._clock.definitions:
            if job.calendar == code:
                self._clock.schedule(job, self.calendars)
        log.info("sessions_read", calendar=code, until=calendar.last.isoformat())
