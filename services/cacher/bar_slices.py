"""How a batch of bars is cut up before it is written: by rounds in time, then by the tables that hold them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts.price_events import PriceBars
from services.cacher.copy_rows import BarValues
from services.cacher.read_event import Observed

KEPT_BY_MONTH = ("1m", "5m")


@dataclass(frozen=True, slots=True)
class LockedBars:
    """Bars of a series that is locked. `first`: nothing of the series is stored. `newest`: no observation of it is newer."""

    observed: Observed
    instrument: int
    series: int
    first: bool
    newest: bool


@dataclass(frozen=True, slots=True)
class TableSlice:
    """An event's rows in one table."""

    known: LockedBars
    event: PriceBars
    table: str
    bars: BarValues


def write_order(bars: Sequence[LockedBars]) -> list[list[LockedBars]]:
    """The events in rounds: those of one series whose ranges overlap one after the other, all others together."""
    in_turn: list[list[LockedBars]] = []
    taken: dict[int, list[tuple[datetime, datetime, int]]] = defaultdict(list)
    for known in bars:
        low, high = known.observed.at_from, known.observed.at_to
        earlier = [turn for first, last, turn in taken[known.series] if first < high and low < last]
        turn = max(earlier) + 1 if earlier else 0
        taken[known.series].append((low, high, turn))
        if turn == len(in_turn):
            in_turn.append([])
        in_turn[turn].append(known)
    return in_turn


def slices(known: LockedBars) -> list[TableSlice]:
    """The event's rows, table by table."""
    event, bars = known.observed.event, known.observed.bars
    assert isinstance(event, PriceBars)
    assert bars is not None
    if event.timeframe not in KEPT_BY_MONTH:
        return [TableSlice(known, event, f"bars_{event.timeframe}", bars)]
    starts = list(months(event))
    rows = [bisect_left(event.at, start) for start in starts] + [len(event.at)]
    return [
        TableSlice(known, event, month_table(event.timeframe, start), bars.between(first, last))
        for start, first, last in zip(starts, rows[:-1], rows[1:], strict=True)
        if first < last
    ]


def months(event: PriceBars) -> Iterator[datetime]:
    """The first instant of each month that the event's bars may be in."""
    if event.at:
        month = event.at[0].astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        while month <= event.at[-1]:
            yield month
            month = (month + timedelta(days=32)).replace(day=1)


def month_table(timeframe: str, month: datetime) -> str:
    """The table of this month's bars."""
    return f"bars_{timeframe}_{month:%Y%m}"
