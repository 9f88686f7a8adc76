"""Bars as rows of PostgreSQL's binary COPY format.

A row is its count of fields, then each field as its length and its bytes, big-endian; length -1 is null. What the rows of one event
share stands first, so that it is packed once and set before every row by `join`.

Source: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format).
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from struct import Struct
from typing import NamedTuple

from contracts.price_events import Column, PriceBars

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
BAR_COLUMNS = ("at", "open", "high", "low", "close", "volume", "adjusted_close", "final")

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIELD_COUNT, _LENGTH = Struct(">h"), Struct(">i")
_INT2, _INT4, _INT8 = Struct(">ih"), Struct(">ii"), Struct(">iq")
_KEY_AND_PRICES = "iq" + 4 * "id"
# One shape for each way in which volume and adjusted_close, the two that may be null, are there or not.
_SHAPES = {
    (True, True): Struct(f">{_KEY_AND_PRICES}ididib"),
    (True, False): Struct(f">{_KEY_AND_PRICES}idiib"),
    (False, True): Struct(f">{_KEY_AND_PRICES}iidib"),
    (False, False): Struct(f">{_KEY_AND_PRICES}iiib"),
}


class BarColumns(NamedTuple):
    """The bars of an event; `at` in microseconds since 2000, as Postgres stores an instant."""

    at: list[int]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: Column
    adjusted_close: Column
    final: list[bool]

    def take(self, rows: Sequence[int]) -> "BarColumns":
        """Only these rows."""
        at, opens, high, low, close, volume, adjusted, final = self
        return BarColumns(
            [at[row] for row in rows],
            [opens[row] for row in rows],
            [high[row] for row in rows],
            [low[row] for row in rows],
            [close[row] for row in rows],
            [volume[row] for row in rows],
            [adjusted[row] for row in rows],
            [final[row] for row in rows],
        )

    def between(self, first: int, last: int) -> "BarColumns":
        """The rows from `first` to `last`, the latter not included."""
        part = slice(first, last)
        at, opens, high, low, close, volume, adjusted, final = self
        return BarColumns(at[part], opens[part], high[part], low[part], close[part], volume[part], adjusted[part], final[part])


class Instants:
    """Turns instants into microseconds since 2000. Remembers the last column, since bars of many symbols share theirs."""

    def __init__(self) -> None:
        self._seen: list[datetime] = []
        self._packed: list[int] = []

    def __call__(self, at: list[datetime]) -> list[int]:
        if at != self._seen:
            self._seen, self._packed = at, [microseconds(instant) for instant in at]
        return self._packed


def bar_columns(event: PriceBars, instants: Instants) -> BarColumns:
    """The event's bars, ready to be packed or compared."""
    adjusted: Column = [None] * len(event.at) if event.adjusted_close is None else event.adjusted_close
    at = instants(event.at)
    return BarColumns(at, event.open, event.high, event.low, event.close, event.volume, adjusted, event.final)


def pack_bars(bars: BarColumns) -> list[bytes]:
    """Each bar's `BAR_COLUMNS`, without the field count."""
    volumes, adjusted = _whole(bars.volume), _whole(bars.adjusted_close)
    leading: list[Iterable[float]] = [repeat(8), bars.at]
    for column in (bars.open, bars.high, bars.low, bars.close):
        leading += [repeat(8), column]
    if volumes is not None and adjusted is not None:
        pack = _SHAPES[len(volumes) > 1, len(adjusted) > 1].pack
        return list(map(pack, *leading, *volumes, *adjusted, repeat(1), bars.final))
    nullables = zip(bars.volume, bars.adjusted_close, bars.final, strict=True)
    return [
        _SHAPES[volume is not None, close is not None].pack(*prices, *_nullable(volume), *_nullable(close), 1, final)
        for prices, (volume, close, final) in zip(zip(*leading, strict=False), nullables, strict=False)
    ]


def copy_rows(start: bytes, rows: Sequence[bytes]) -> bytes:
    """These rows, each beginning with `start`."""
    return start + start.join(rows) if rows else b""


def row_start(field_count: int, *fields: bytes) -> bytes:
    """What every row of a COPY begins with: how many fields it has in all, then those that are the same in each."""
    return _FIELD_COUNT.pack(field_count) + b"".join(fields)


def microseconds(instant: datetime) -> int:
    """The instant as Postgres stores it."""
    return (instant - _EPOCH) // _MICROSECOND


def instant_of(microseconds_since_2000: int) -> datetime:
    """The instant that Postgres stores so."""
    return _EPOCH + timedelta(microseconds=microseconds_since_2000)


def int2(value: int) -> bytes:
    """A smallint field."""
    return _INT2.pack(2, value)


def int4(value: int) -> bytes:
    """An integer field."""
    return _INT4.pack(4, value)


def timestamptz(instant: datetime) -> bytes:
    """A timestamptz field."""
    return _INT8.pack(8, microseconds(instant))


def text(value: str) -> bytes:
    """A text field."""
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _whole(column: Column) -> tuple[Iterable[float | None], ...] | None:
    """The column's part of a row when all of it is there or all is null; none when mixed."""
    nulls = column.count(None)
    if nulls == 0:
        return repeat(8), column
    return (repeat(-1),) if nulls == len(column) else None


def _nullable(value: float | None) -> tuple[float, ...]:
    return (-1,) if value is None else (8, value)
