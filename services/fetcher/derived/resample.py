"""Longer bars out of shorter ones. Pure: it reads no store and no clock."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from contracts.message import Timeframe
from contracts.price_events import BAR_COLUMNS
from services.fetcher.adapter.events import Bar
from services.fetcher.adapter.fields import EPOCH, LENGTHS, day_start, period_end, period_start

# What each may be made of, the longest first, as that is the least to read. A day is its session's, which minutes do not tell.
SOURCES: Mapping[Timeframe, tuple[Timeframe, ...]] = {
    "5m": ("1m",),
    "15m": ("5m", "1m"),
    "30m": ("15m", "5m", "1m"),
    "1h": ("30m", "15m", "5m", "1m"),
    "1wk": ("1d",),
    "1mo": ("1d",),
}


class TimeRange(NamedTuple):
    """A time for which bars were asked and seen, `end` not included."""

    start: datetime
    end: datetime


def start_of(at: datetime, timeframe: Timeframe) -> datetime:
    """The start of the bar that an instant lies in: full hours and parts of them in UTC, Mondays, firsts of the month."""
    if timeframe in LENGTHS:
        return at - (at - EPOCH) % LENGTHS[timeframe]
    return day_start(period_start(at.astimezone(UTC).date(), timeframe))


def end_of(start: datetime, timeframe: Timeframe) -> datetime:
    """The end of the bar that starts there."""
    return start + LENGTHS[timeframe] if timeframe in LENGTHS else day_start(period_end(start.date(), timeframe))


def resample(rows: Sequence[Bar], timeframe: Timeframe, seen: Sequence[TimeRange]) -> list[Bar]:
    """The bars that these make, in order of time like them. One of which a part was never asked for is left out.

    `seen`: in order, without overlap. The newest bar may lack what lies after all of it: it is not over.
    """
    return [
        _aggregate(start, list(parts))
        for start, parts in groupby(rows, lambda row: start_of(row.at, timeframe))
        if _is_seen(start, end_of(start, timeframe), seen)
    ]


def _is_seen(start: datetime, end: datetime, seen: Sequence[TimeRange]) -> bool:
    place = bisect_right(seen, start, key=lambda span: span.start) - 1
    return place >= 0 and (seen[place].end >= end or (place == len(seen) - 1 and seen[place].end > start))


def _aggregate(start: datetime, parts: Sequence[Bar]) -> Bar:
    values = {column.name: [getattr(part, column.name) for part in parts] for column in BAR_COLUMNS}
    return Bar(start, **{column.name: _RESAMPLED[column.resampled](values[column.name]) for column in BAR_COLUMNS})


# A column of a longer bar out of those of its parts. The sum without a value that is unknown would be too small.
_RESAMPLED: Mapping[str, Callable[[Sequence[float | None]], float | None]] = {
    "first": lambda values: values[0],
    "max": lambda values: max((value for value in values if value is not None), default=None),
    "min": lambda values: min((value for value in values if value is not None), default=None),
    "last": lambda values: values[-1],
    "sum": lambda values: None if None in values else sum(value for value in values if value is not None),
    "none": lambda _values: None,
}
