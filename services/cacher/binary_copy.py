"""Bars as rows of PostgreSQL's binary COPY format.

A row is its count of fields, then each field as its length and its bytes, big-endian; length -1 is null. What the rows of one event
share stands first, so that it is packed once and set before every row by `join`.

Source: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format).
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from contracts.price_events import BAR_COLUMN_NAMES, BAR_COLUMNS, PriceBars

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
# The columns that `pack_bars` packs, in its order.
PACKED_COLUMNS = ("at", *BAR_COLUMN_NAMES, "final")

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIELD_COUNT, _LENGTH = Struct(">h"), Struct(">i")
_INT2, _INT4, _INT8 = Struct(">ih"), Struct(">ii"), Struct(">iq")
_CODES = {"float8": "d", "int8": "q"}
_NULL = _LENGTH.pack(-1)


class BarValues(NamedTuple):
    """The bars of an event, or stored ones, in columns.

    `at`: in microseconds since 2000, as Postgres stores an instant. `values`: one column for each of `BAR_COLUMNS`, in their order.
    """

    at: Sequence[int]
    values: tuple[Sequence[Any], ...]
    final: Sequence[bool]

    def take(self, rows: Sequence[int]) -> "BarValues":
        """Only these rows."""
        at, values, final = self
        columns = tuple([column[row] for row in rows] for column in values)
        return BarValues([at[row] for row in rows], columns, [final[row] for row in rows])

    def between(self, first: int, last: int) -> "BarValues":
        """The rows from `first` to `last`, the latter not included."""
        part = slice(first, last)
        return BarValues(self.at[part], tuple(column[part] for column in self.values), self.final[part])


class Instants:
    """Turns instants into microseconds since 2000. Remembers the last column, since bars of many symbols share theirs."""

    def __init__(self) -> None:
        self._seen: list[datetime] = []
        self._packed: list[int] = []

    def __call__(self, at: list[datetime]) -> list[int]:
        if at != self._seen:
            self._seen, self._packed = at, [microseconds(instant) for instant in at]
        return self._packed


def bar_values(event: PriceBars, instants: Instants) -> BarValues:
    """The event's bars, ready to be packed or compared; a column that it lacks is null throughout."""
    nothing: list[None] = [None] * len(event.at)
    values = tuple(nothing if (column := getattr(event, name)) is None else column for name in BAR_COLUMN_NAMES)
    return BarValues(instants(event.at), values, event.final)


def pack_bars(bars: BarValues) -> list[bytes]:
    """Each bar's `PACKED_COLUMNS`, without the field count.

    Columns beside each other that are alike in all rows, there or null, are packed by one struct; a column of both sorts, value by
    value.
    """
    parts: list[list[bytes]] = []
    # Lists, not endless repeats: a part may be of nulls alone, and ends with the bars all the same.
    rows = len(bars.at)
    eight, null, one = [8] * rows, [-1] * rows, [1] * rows
    layout, fields = "iq", [eight, bars.at]
    for column, values in zip(BAR_COLUMNS, bars.values, strict=True):
        nulls = values.count(None) if column.nullable else 0
        code = _CODES[column.type]
        if nulls == 0:
            layout, fields = f"{layout}i{code}", [*fields, eight, values]
        elif nulls == len(values):
            layout, fields = f"{layout}i", [*fields, null]
        else:
            parts += [_packed(layout, fields), _each_packed(code, values)] if layout else [_each_packed(code, values)]
            layout, fields = "", []
    parts.append(_packed(f"{layout}ib", [*fields, one, bars.final]))
    return parts[0] if len(parts) == 1 else list(map(b"".join, zip(*parts, strict=True)))


def copy_rows(start: bytes, rows: Sequence[bytes]) -> bytes:
    """These rows, each beginning with `start`."""
    return start + start.join(rows) if rows else b""


def row_start(field_count: int, *fields: bytes) -> bytes:
    """Head of every row of a binary COPY: its total field count, then the fields that are the same in each row."""
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


def _packed(layout: str, fields: Sequence[Iterable[Any]]) -> list[bytes]:
    return list(map(_struct(layout).pack, *fields))


def _each_packed(code: str, values: Sequence[float | None]) -> list[bytes]:
    pack = _struct(f"i{code}").pack
    return [_NULL if value is None else pack(8, value) for value in values]


@lru_cache(maxsize=256)
def _struct(layout: str) -> Struct:
    return Struct(f">{layout}")
