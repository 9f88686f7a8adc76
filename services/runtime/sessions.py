"""When an exchange is open, as schedules ask it. No clock, and no exchange_calendars: the provisioner has asked that."""

from collections.abc import Hashable, Mapping
from datetime import date, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from contracts.trading_sessions import TradingSessions
from services.runtime.slots import Schedule

_DAY = timedelta(days=1)
_SATURDAY = 5


class Calendar:
    """The sessions of one exchange, in order. `first`, `last`: between these dates all of them are known."""

    def __init__(self, known: TradingSessions) -> None:
        self.code = known.calendar
        self.zone = ZoneInfo(known.timezone)
        self.first, self.last = known.first, known.last
        self.made_at = known.made_at
        self.days = known.day
        # Open and close in seconds since the epoch, and the pause at noon where there is one.
        self.hours = [(_seconds(opens), _seconds(closes)) for opens, closes in zip(known.open, known.close, strict=True)]
        pauses = zip(known.break_start, known.break_end, strict=True)
        self.pauses = [(_seconds(start), _seconds(end)) if start and end else None for start, end in pauses]
        # What was worked out from these sessions, so that jobs of the same times share it.
        self.schedules: dict[Hashable, Schedule] = {}

    def has_session(self, day: date) -> bool:
        """Whether there is a session on this date of the exchange; of a date that is not known, whether it is a weekday."""
        # A call on a holiday costs little, a day without data cannot be bought back.
        if self.first <= day <= self.last:
            return day in self._dates
        return day.weekday() < _SATURDAY

    def is_last_of_week(self, day: date) -> bool:
        """Whether no session follows this one in its week, which ends on Sunday."""
        return not any(self.has_session(day + n * _DAY) for n in range(1, 7 - day.weekday()))

    def is_last_of_month(self, day: date) -> bool:
        """Whether no session follows this one in its month."""
        following = (day + _DAY * n for n in range(1, 32))
        return not any(self.has_session(other) for other in following if other.month == day.month and other > day)

    def ahead(self, today: date) -> int:
        """For how many days from today on the sessions are known; negative when they ended."""
        return (self.last - today).days

    @cached_property
    def _dates(self) -> frozenset[date]:
        return frozenset(self.days)


Calendars = Mapping[str, Calendar]


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())
