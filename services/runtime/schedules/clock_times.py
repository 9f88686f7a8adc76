"""Schedules by clock time: slots every so many seconds, or at times of day in a time zone. Pure: no clock, no state."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_DAY_S = 86400
# The rarest date that cron can name, a 29 February on one weekday, may be 40 years away.
_FARTHEST_DAYS = 50 * 366

DstGap = Literal["next", "skip"]
DstFold = Literal["first", "both"]


class Schedule(Protocol):
    """Rising instants without end. All are UTC; costs do not grow with the number of slots in between."""

    def next_after(self, after: datetime) -> datetime:
        """The first slot later than `after`.

        Raises:
            ValueError: there is none within 50 years, or none that is known.
        """
        ...

    def last_until(self, after: datetime, until: datetime) -> datetime | None:
        """The last slot later than `after` and not later than `until`."""
        ...

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots later than `after` and not later than `until`."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Unknown:
    """No slot that can be known. `why`: what is missing."""

    why: str

    def next_after(self, after: datetime) -> datetime:  # noqa: ARG002  (what a Schedule is asked)
        raise ValueError(self.why)

    def last_until(self, after: datetime, until: datetime) -> datetime | None:  # noqa: ARG002
        return None

    def count(self, after: datetime, until: datetime) -> int:  # noqa: ARG002
        return 0


@dataclass(frozen=True, slots=True)
class Interval:
    """Whole multiples of a length, counted from the epoch: the same slots for every clock, whenever it was started."""

    microseconds: int

    def next_after(self, after: datetime) -> datetime:
        return self._slot(self._number(after) + 1)

    def last_until(self, after: datetime, until: datetime) -> datetime | None:
        slot = self._slot(self._number(until))
        return slot if slot > after else None

    def count(self, after: datetime, until: datetime) -> int:
        return max(0, self._number(until) - self._number(after))

    def _number(self, instant: datetime) -> int:
        return (instant - _EPOCH) // _TICK // self.microseconds

    def _slot(self, number: int) -> datetime:
        return _EPOCH + timedelta(microseconds=number * self.microseconds)


@dataclass(frozen=True, eq=False, slots=True)
class TimesOfDay:
    """Times of day on the days that `falls_on` names.

    `seconds`: since midnight on the wall, rising. `gap`: a time that the wall does not show because clocks go forward falls on
    the end of the gap, or is left out. `fold`: one that it shows twice as they go back counts the first time, or both.
    """

    zone: ZoneInfo
    seconds: tuple[int, ...]
    includes: Callable[[date], bool]
    gap: DstGap = "next"
    fold: DstFold = "first"

    def next_after(self, after: datetime) -> datetime:
        today, start = self._date(after), _seconds(after)
        # A repeated hour before midnight lies after the next day's first instants, so a day may end within its neighbour.
        near = [slot for n in (-1, 0, 1) for slot in _first(_slots(self, today + n * _DAY), start)]
        if near:
            return _instant(min(near))
        for n in range(2, _FARTHEST_DAYS):
            for slot in _first(_slots(self, today + n * _DAY), start):
                return _instant(slot)
        raise ValueError(f"no slot within 50 years of {after:%Y-%m-%d}")

    def last_until(self, after: datetime, until: datetime) -> datetime | None:
        today, first, end = self._date(until), _seconds(after), _seconds(until)
        for day in range((today - self._date(after)).days + 2):
            around = (today + _DAY, today, today - _DAY) if day == 0 else (today - (day + 1) * _DAY,)
            found = [slots[n - 1] for slots in (_slots(self, each) for each in around) if (n := bisect_right(slots, end))]
            if found:
                return _instant(max(found)) if max(found) > first else None
        return None

    def count(self, after: datetime, until: datetime) -> int:
        first, end = self._date(after) - _DAY, self._date(until) + _DAY
        start_s, end_s = _seconds(after), _seconds(until)
        days = [_slots(self, first + n * _DAY) for n in range((end - first).days + 1)]
        total = sum(max(0, bisect_right(slots, end_s) - bisect_right(slots, start_s)) for slots in days)
        # A gap that reaches midnight moves a slot onto the next day's first instant, where there may be one already.
        twins = (a[-1] for a, b in pairwise(days) if a and b and a[-1] == b[0])
        return total - sum(start_s < twin <= end_s for twin in twins)

    def _date(self, instant: datetime) -> date:
        return instant.astimezone(self.zone).date()


def _seconds(instant: datetime) -> float:
    return (instant - _EPOCH) / timedelta(seconds=1)


def _instant(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _first(slots: tuple[int, ...], after: float) -> tuple[int, ...]:
    n = bisect_right(slots, after)
    return slots[n : n + 1]


# Small: a job of every minute has 1,440 slots a day, and those that fall due next are the ones looked at.
@lru_cache(maxsize=64)
def _slots(daily: TimesOfDay, day: date) -> tuple[int, ...]:
    """The slots that belong to a day on the wall, as seconds since the epoch, rising."""
    if not daily.includes(day):
        return ()
    midnight = datetime(day.year, day.month, day.day, tzinfo=daily.zone)
    wall = (day - _EPOCH.date()).days * _DAY_S
    offset = midnight.utcoffset()
    if offset == (midnight + _DAY).replace(fold=1).utcoffset() and offset is not None:
        return tuple(wall + second - int(offset.total_seconds()) for second in daily.seconds)
    return tuple(sorted({slot for second in daily.seconds for slot in _occurrences(daily, wall + second)}))


def _occurrences(daily: TimesOfDay, wall: int) -> set[int]:
    """The instants at which the wall shows `wall` (seconds since 1970 on the wall itself), on a day that the clocks change."""
    naive = datetime(1970, 1, 1) + timedelta(seconds=wall)  # noqa: DTZ001  (a wall's time has no zone yet)
    first, second = (int(_seconds(naive.replace(tzinfo=daily.zone, fold=fold))) for fold in (0, 1))
    shown = {slot for slot in (first, second) if _instant(slot).astimezone(daily.zone).replace(tzinfo=None) == naive}
    if shown:
        return {min(shown)} if daily.fold == "first" else shown
    return {_end_of_gap(daily.zone, second, first)} if daily.gap == "next" else shown


def _end_of_gap(zone: ZoneInfo, before: int, after: int) -> int:
    """The instant in (before, after] at which the offset changes."""
    old = _instant(before).astimezone(zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if _instant(middle).astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
