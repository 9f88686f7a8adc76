"""Schedule of a job with `after`: the instants at which runs of the upstream job finished, and some of its own between."""

from bisect import bisect_left, bisect_right, insort
from datetime import datetime, timedelta

_TICK = timedelta(microseconds=1)


class DependentSchedule:
    """Finished runs as slots. With `at_least_every`, also whole multiples of it since the latest known instant.

    It knows the instants that it was given: ends of runs, and published slots, from which time is counted anew.
    `runs_loaded`: it was given the runs that finished before anybody listened for them.
    """

    def __init__(self, upstream: str, began: datetime, at_least_every: timedelta | None) -> None:
        self._upstream = upstream
        self._every = at_least_every
        self._known = [began]
        self._finished: set[datetime] = set()
        self.runs_loaded = False

    def add_run(self, at: datetime) -> bool:
        """Add the end of a run; True if it was news."""
        new = at > self._known[0] and at not in self._finished
        if new:
            self._finished.add(at)
            self._add(at)
        return new

    def add_published(self, slot: datetime) -> None:
        """Add a slot that was published, and forget what is older."""
        self._add(slot)
        first = bisect_left(self._known, slot)
        self._finished.difference_update(self._known[:first])
        del self._known[:first]

    def next_after(self, after: datetime) -> datetime:
        """The first slot later than `after`, as far as is known.

        Raises:
            ValueError: the next run is not over yet.
        """
        number = bisect_right(self._known, after)
        while True:
            end = self._known[number] if number < len(self._known) else None
            if self._every and number:
                start = self._known[number - 1]
                slot = start + ((max(after, start) - start) // self._every + 1) * self._every
                if end is None or slot < end:
                    return slot
            if end is None:
                raise ValueError(f"it runs when {self._upstream} has run")
            if end in self._finished:
                return end
            number += 1

    def last_until(self, after: datetime, until: datetime) -> datetime | None:
        """The last slot later than `after` and not later than `until`."""
        for number in range(bisect_right(self._known, until) - 1, -1, -1):
            start = self._known[number]
            steps = self._steps(number, until)
            if steps or start in self._finished:
                slot = start + steps * self._every if self._every else start
                return slot if slot > after else None
        return None

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots that are later than `after` and not later than `until`."""
        return max(0, self._rank(until) - self._rank(after))

    def _rank(self, until: datetime) -> int:
        numbers = range(bisect_right(self._known, until))
        return sum(self._steps(number, until) + (self._known[number] in self._finished) for number in numbers)

    def _steps(self, number: int, until: datetime) -> int:
        """Count the whole lengths between an instant and the next one that is known."""
        if not self._every:
            return 0
        if number + 1 < len(self._known):
            until = min(until, self._known[number + 1] - _TICK)
        return (until - self._known[number]) // self._every

    def _add(self, at: datetime) -> None:
        if at not in self._known:
            insort(self._known, at)
