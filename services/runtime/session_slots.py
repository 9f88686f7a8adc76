"""Slots that are counted from the open and the close of an exchange's sessions."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate

from contracts.schedule import Edge, SessionTimes
from services.runtime.sessions import Calendar

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class InSessions:
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

    def following(self, after: datetime) -> datetime:
        """The first slot later than `after`.

        Raises:
            ValueError: there is none in the sessions that are known.
        """
        seconds = _seconds(after)
        number = bisect_right(self._lasts, seconds)
        if number == len(self._runs):
            code, last = self._calendar.code, self._calendar.last
            raise ValueError(f"no session of {code} is known after {last}: run `quotebus migrate`")
        run = self._runs[number]
        return _instant(run[bisect_right(run, seconds)])

    def newest(self, after: datetime, until: datetime) -> datetime | None:
        """The last slot later than `after` and not later than `until`."""
        seconds = _seconds(until)
        number = bisect_right(self._firsts, seconds) - 1
        if number < 0:
            return None
        run = self._runs[number]
        slot = _instant(run[bisect_right(run, seconds) - 1])
        return slot if slot > after else None

    def count(self, after: datetime, until: datetime) -> int:
        """How many slots are later than `after` and not later than `until`."""
        return max(0, self._rank(_seconds(until)) - self._rank(_seconds(after)))

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


def _at(edge: Edge, hours: tuple[int, int]) -> int:
    return hours[edge.side == "close"] + edge.offset_s


def _seconds(instant: datetime) -> float:
    return (instant - _EPOCH) / timedelta(seconds=1)


def _instant(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)
