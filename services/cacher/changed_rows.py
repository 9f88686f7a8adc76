"""Which bars of an event differ from the stored ones, so that what has not changed never travels to Postgres again."""

from collections.abc import Mapping
from itertools import repeat
from typing import Any

from services.cacher.copy_rows import BarColumns
from services.runtime.binary_arrays import read_booleans, read_floats, read_microseconds, read_nullable_floats


def stored_bars(row: Mapping[str, Any]) -> BarColumns:
    """The stored bars that the query for them gave as one row of binary arrays."""
    at = read_microseconds(row["at"])
    return BarColumns(
        at,
        read_floats(row["open"]),
        read_floats(row["high"]),
        read_floats(row["low"]),
        read_floats(row["close"]),
        read_nullable_floats(row["volume"], len(at)),
        read_nullable_floats(row["adjusted_close"], len(at)),
        read_booleans(row["final"]),
    )


def changed_rows(bars: BarColumns, stored: BarColumns) -> list[int]:
    """The rows of `bars` that are not stored just so. An adjusted close that is null says nothing, so it differs from nothing."""
    silent = bars.adjusted_close.count(None) == len(bars.adjusted_close)
    if bars[:6] == stored[:6] and bars.final == stored.final and (silent or bars.adjusted_close == stored.adjusted_close):
        return []
    held = dict(zip(stored.at, _values(stored, silent=silent), strict=True)).get
    return [row for row, (at, values) in enumerate(zip(bars.at, _values(bars, silent=silent), strict=True)) if held(at) != values]


def _values(bars: BarColumns, *, silent: bool) -> "zip[tuple[object, ...]]":
    adjusted = repeat(None) if silent else bars.adjusted_close
    return zip(bars.open, bars.high, bars.low, bars.close, bars.volume, bars.final, adjusted, strict=False)
