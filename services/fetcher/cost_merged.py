"""Calls that jobs share: where several want the same of a symbol as of the same instant, one call serves all of them. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.runtime.schedules.clock_times import Schedule

# A job of more slots is counted as if nobody shared its calls: to look at each of them would take seconds.
MOST_SLOTS = 20_000
_TICK = timedelta(microseconds=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Wish:
    """What a job wants at each of its slots. `slots`: how many in the hours that count; `calls_for`: calls for so many symbols."""

    schedule: Schedule
    symbols: frozenset[str]
    slots: int
    calls_for: Callable[[int], int]


def shared_by_hour(wishes: Sequence[Wish], start: datetime, hours: int) -> list[list[int]]:
    """For each wish, the calls an hour that others make anyway. All are for the latest of one series, with one provider.

    Of jobs with a common slot the one that runs most pays, and the rarer one only for symbols that are its own.
    """
    found = [[0] * hours for _ in wishes]
    order = sorted(range(len(wishes)), key=lambda n: (-wishes[n].slots, n))
    for place, n in enumerate(order):
        mine = wishes[n]
        before = {m: wishes[m] for m in order[:place] if mine.symbols & wishes[m].symbols}
        if before and mine.slots <= MOST_SLOTS:
            for hour, calls in _shared(mine, before, start, hours):
                found[n][hour] += calls
    return found


def _shared(mine: Wish, before: Mapping[int, Wish], start: datetime, hours: int) -> Iterator[tuple[int, int]]:
    """The hour of each slot that others have too, and the calls it saves."""
    savings: dict[tuple[int, ...], int] = {}
    for slot in _slots(mine.schedule, start, start + hours * _HOUR):
        others = tuple(m for m, wish in before.items() if wish.schedule.newest(slot - _TICK, slot) == slot)
        if others not in savings:
            left = mine.symbols.difference(*(before[m].symbols for m in others))
            savings[others] = mine.calls_for(len(mine.symbols)) - mine.calls_for(len(left))
        yield (slot - start) // _HOUR, savings[others]


def _slots(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    slot = start - _TICK
    while True:
        try:
            slot = schedule.following(slot)
        except ValueError:
            return
        if slot >= end:
            return
        yield slot
