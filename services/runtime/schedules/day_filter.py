"""A schedule's slots on some days only: the weekdays, month days and sessions that a job names."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from contracts.schedule import DaySelector
from services.runtime.schedules.clock_times import Schedule
from services.runtime.schedules.sessions import Calendar

_DAY = timedelta(days=1)
_TICK = timedelta(microseconds=1)
_FARTHEST_DAYS = 50 * 366


def day_filter(days: DaySelector, calendar: Calendar | None) -> Callable[[date], bool]:
    """Build the date predicate of a schedule. With a calendar, `last` and `last_of_week` mean the last date with a session."""
    named = days != DaySelector()

    def counts(day: date) -> bool:
        if calendar is not None and not calendar.has_session(day):
            return False
        if not named or day.weekday() in days.weekdays or day.day in days.month_days:
            return True
        if calendar is None:
            return days.last and (day + _DAY).month != day.month
        return (days.last and calendar.is_last_of_month(day)) or (days.last_of_week and calendar.is_last_of_week(day))

    return counts


class DayFiltered:
    """The slots of another schedule on the days that count, each day from its first midnight in the zone to the next day's."""

    def __init__(self, schedule: Schedule, zone: ZoneInfo, counts: Callable[[date], bool]) -> None:
        self._schedule = schedule
        self._zone = zone
        self._counts = lru_cache(64)(counts)

    def next_after(self, after: datetime) -> datetime:
        """The first slot later than `after`.

        Raises:
            ValueError: there is none within 50 years.
        """
        slot = self._schedule.next_after(after)
        farthest = after + _FARTHEST_DAYS * _DAY
        while slot < farthest:
            day = self._day(slot)
            if self._counts(day):
                return slot
            while not self._counts(day := day + _DAY) and _start(self._zone, day) < farthest:
                pass
            slot = self._schedule.next_after(_start(self._zone, day) - _TICK)
        raise ValueError(f"no slot within 50 years of {after:%Y-%m-%d}")

    def last_until(self, after: datetime, until: datetime) -> datetime | None:
        """The last slot later than `after` and not later than `until`."""
        slot = self._schedule.last_until(after, until)
        while slot is not None and not self._counts(day := self._day(slot)):
            slot = self._schedule.last_until(after, _start(self._zone, day) - _TICK)
        return slot

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots later than `after` and not later than `until`."""
        total, day = 0, self._day(after)
        while (start := _start(self._zone, day)) <= until:
            if self._counts(day):
                first, last = max(after, start - _TICK), min(until, _start(self._zone, day + _DAY) - _TICK)
                total += self._schedule.count(first, last) if first < last else 0
            day += _DAY
        return total

    def _day(self, instant: datetime) -> date:
        """The day whose hours the instant lies in. Where clocks went back over midnight, the repeated hour is the new day's."""
        day = instant.astimezone(self._zone).date()
        if instant < _start(self._zone, day):
            return day - _DAY
        return day + _DAY if instant >= _start(self._zone, day + _DAY) else day


@lru_cache(maxsize=256)
def _start(zone: ZoneInfo, day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
