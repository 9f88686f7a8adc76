"""The ranges of requests: cut to what an answer can hold, narrowed to what the vendor has."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from services.fetcher.provider import Verdict
from services.fetcher.providers.databento.refusals import RefusalError


class Range(NamedTuple):
    """From `start` until before `end`."""

    start: datetime
    end: datetime

    def within(self, earliest: datetime | None, latest: datetime | None) -> "Range | None":
        """The part of it that lies in bounds; None: nothing does."""
        start, end = max(self.start, earliest or self.start), min(self.end, latest or self.end)
        return Range(start, end) if start < end else None

    def before(self, latest: datetime) -> "Range":
        """The range as long as this one that ends no later."""
        return self if latest >= self.end else Range(latest - (self.end - self.start), latest)

    def cut(self, days: int) -> Iterator["Range"]:
        """Parts of so many days at most, in order of time."""
        start, step = self.start, timedelta(days=max(1, days))
        while start < self.end:
            yield Range(start, min(start + step, self.end))
            start += step


def narrowed(asked: Range, error: RefusalError, *, slide: bool = False) -> Range:
    """The part of a refused range that the vendor would answer; with `slide` one of the same length.

    Raises:
        RefusalError: the refusal itself, where it names no other range; empty, where the vendor has nothing of the range.
    """
    inside = asked.before(error.latest) if slide and error.latest else asked.within(error.earliest, error.latest)
    if inside == asked or (inside is None and error.verdict is Verdict.PLAN_RESTRICTED):
        raise error
    if inside is None:
        raise RefusalError(Verdict.EMPTY, f"{error.message}; nothing of the range is there")
    return inside
