"""Events of bars that have a value of their own in every column there is."""

from collections.abc import Sequence
from typing import Any

from contracts.price_events import BAR_COLUMNS, BarColumn, PriceBars
from tests.cacher.events import bars


def sample(column: BarColumn, rows: int) -> list[Any]:
    """Values of a column that no other column has, and that a bar may have."""
    place = BAR_COLUMNS.index(column)
    whole = {"open": 50.5, "high": 51.0, "low": 50.0, "close": 50.25}.get(column.name, 1000 + 10 * place)
    return [type_of(column)(whole + row) for row in range(rows)]


def type_of(column: BarColumn) -> type[float | int]:
    """The type of a column's values in Python."""
    return int if column.type == "int8" else float


def full_bars(rows: int = 3, **other: Any) -> PriceBars:
    """Bars with every column."""
    closes = tuple(sample(BAR_COLUMNS[3], rows))
    return bars(closes=closes, **({column.name: sample(column, rows) for column in BAR_COLUMNS} | other))


def nullable() -> Sequence[BarColumn]:
    """The columns whose values may be unknown."""
    return [column for column in BAR_COLUMNS if column.nullable]
