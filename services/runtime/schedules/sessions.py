"""Exchange calendars as rows of UTC instants, and the schedule of jobs that follow them."""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import accumulate
from zoneinfo import ZoneInfo

from contracts.schedule import SessionAnchor, SessionTimes
from contracts.trading_sessions import TradingSessions
from services.runtime.schedules.clock_times import Schedule

_DAY = timedelta(days=1)
_SATURDAY = 5

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        """True if the exchange has a session on this date; for a date outside the calendar, True if it is a weekday."""
        # A call on a holiday costs little, a day without data cannot be bought back.
        if self.first <= day <= self.last:
            return day in self._dates
        return day.weekday() < _SATURDAY

    def is_last_of_week(self, day: date) -> bool:
        """True if no session follows this one in its week, which ends on Sunday."""
        return not any(self.has_session(day + n * _DAY) for n in range(1, 7 - day.weekday()))

    def is_last_of_month(self, day: date) -> bool:
        """True if no session follows this one in its month."""
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


class SessionTimesSchedule:
    """The times of every session whose date `falls_on` names, as far as sessions are known.

    Slots of one session never reach into those of the session before; none falls inside a pause at noon.
    """

    def __init__(self, calendar: Calendar, times: SessionTimes, falls_on: Callable[[date], bool]) -> None:
        self._calendar = calendar
        # Runs of seconds since the epoch, rising: two for a day with a pause, else one. A range of 20,000 costs what one of 2 does.
        self._runs = [run for run in _runs(calendar, times, falls_on) if run]
        self._firsts = [run[0] for run in self._runs]
        self._lasts = [run[-1] for run in self._runs]
        self._before = list(accumulate((len(run) for run in self._runs), initial=0))

    def next_after(self, after: datetime) -> datetime:
        """The first slot later than `after`.

        Raises:
            ValueError: there is none in the sessions that are known.
        """
        seconds = _epoch_seconds(after)
        number = bisect_right(self._lasts, seconds)
        if number == len(self._runs):
            code, last = self._calendar.code, self._calendar.last
            raise ValueError(f"no session of {code} is known after {last}: run `quotebus migrate`")
        run = self._runs[number]
        return _instant(run[bisect_right(run, seconds)])

    def last_until(self, after: datetime, until: datetime) -> datetime | None:
        """The last slot later than `after` and not later than `until`."""
        seconds = _epoch_seconds(until)
        number = bisect_right(self._firsts, seconds) - 1
        if number < 0:
            return None
        run = self._runs[number]
        slot = _instant(run[bisect_right(run, seconds) - 1])
        return slot if slot > after else None

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots later than `after` and not later than `until`."""
        return max(0, self._rank(_epoch_seconds(until)) - self._rank(_epoch_seconds(after)))

    def _rank(self, seconds: float) -> int:
        number = bisect_right(self._firsts, seconds) - 1
        return self._before[number] + bisect_right(self._runs[number], seconds) if number >= 0 else 0


def _runs(calendar: Calendar, times: SessionTimes, falls_on: Callable[[date], bool]) -> Iterator[range]:
    ended = -1
    for day, hours, pause in zip(calendar.days, calendar.hours, calendar.pauses, strict=True):
        if not falls_on(day):
            continue
        start, end = _at(times.start, hours), _at(times.end, hours)
        for run in _around(pause, range(start, end + 1, times.every_s or 1)):
            later = run[bisect_right(run, ended) :]
            if later:
                ended = later[-1]
                yield later


def _around(pause: tuple[int, int] | None, run: range) -> tuple[range, ...]:
    if pause is None:
        return (run,)
    # At the very edge of a pause there is a price to be had.
    return run[: bisect_right(run, pause[0])], run[bisect_right(run, pause[1] - 1) :]


def _at(edge: SessionAnchor, hours: tuple[int, int]) -> int:
    return hours[edge.side == "close"] + edge.offset_s


def _epoch_seconds(instant: datetime) -> float:
    return (instant - _EPOCH) / timedelta(seconds=1)


def _instant(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)
