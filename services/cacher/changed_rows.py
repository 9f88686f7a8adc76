"""Which bars of an event differ from the stored ones, so that what has not changed never travels to Postgres again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from contracts.price_events import BAR_COLUMNS
from services.cacher.copy_rows import BarValues
from services.runtime.postgres import read_booleans, read_microseconds
from services.runtime.prices.bar_columns import read_column


def stored_bars(row: Mapping[str, Any]) -> BarValues:
    """The stored bars that the query for them gave as one row of binary arrays."""
    at = read_microseconds(row["at"])
    values = tuple(read_column(column, row[column.name], len(at)) for column in BAR_COLUMNS)
    return BarValues(at, values, read_booleans(row["final"]))


def changed_rows(bars: BarValues, stored: BarValues) -> list[int]:
    """The rows of `bars` that are not stored just so, an optional column left out that is null throughout: it says nothing."""
    told = [
        number
        for number, (column, values) in enumerate(zip(BAR_COLUMNS, bars.values, strict=True))
        if not column.optional or values.count(None) < len(values)
    ]
    ours, theirs = _columns(bars, told), _columns(stored, told)
    if bars.at == stored.at and ours == theirs:
        return []
    held: Callable[[int], object] = dict(zip(stored.at, _rows(theirs), strict=True)).get
    return [row for row, (at, values) in enumerate(zip(bars.at, _rows(ours), strict=True)) if held(at) != values]


def _columns(bars: BarValues, numbers: Iterable[int]) -> list[Sequence[Any]]:
    return [*(bars.values[number] for number in numbers), bars.final]


def _rows(columns: Sequence[Sequence[Any]]) -> "zip[tuple[Any, ...]]":
    return zip(*columns, strict=True)
