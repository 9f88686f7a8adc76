"""A job's `days`: weekdays, ranges of weekdays, days of the month, and the last ones of a month or week."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LAST, LAST_OF_WEEK = "last", "last-of-week"
_WEEKDAY = "|".join(WEEKDAYS)
_RANGE = re.compile(rf"({_WEEKDAY})(?:-({_WEEKDAY}))?")
_MONTH_DAY = re.compile(r"[1-9]|[12]\d|3[01]")


@dataclass(frozen=True)
class Days:
    """The days that any of the words names. `weekdays`: 0 is Monday. `last`, `last_of_week`: the last one of a month or week."""

    weekdays: frozenset[int] = frozenset()
    month_days: frozenset[int] = frozenset()
    last: bool = False
    last_of_week: bool = False


def parse_days(words: Iterable[str]) -> Days:
    """The days of these words: mon to sun, ranges such as mon-fri or fri-mon, 1 to 31, last, last-of-week.

    Raises:
        ValueError: a word is none of them; the text names the field and the word.
    """
    weekdays: set[int] = set()
    month_days: set[int] = set()
    names = set(words)
    for word in names - {LAST, LAST_OF_WEEK}:
        if found := _RANGE.fullmatch(word):
            first, last = (WEEKDAYS.index(found[n] or found[1]) for n in (1, 2))
            weekdays |= {(first + n) % 7 for n in range((last - first) % 7 + 1)}
        elif _MONTH_DAY.fullmatch(word):
            month_days.add(int(word))
        else:
            raise ValueError(f"days: {word!r} is no day; give mon to sun, mon-fri, 1 to 31, last, or last-of-week")
    return Days(frozenset(weekdays), frozenset(month_days), LAST in names, LAST_OF_WEEK in names)
