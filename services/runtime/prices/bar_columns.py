"""The columns of bars in SQL: what statements name, and how a column travels as one binary array."""

from collections.abc import Callable, Iterable
from typing import Any

from contracts.price_events import BAR_COLUMN_NAMES, BAR_COLUMNS, BarColumn
from services.runtime.postgres import read_floats, read_integers, read_nullable_floats, read_nullable_integers

# What stands for null within an array: no bar has such a value.
_NULLS = {"float8": "'NaN'", "int8": "-1"}
_READERS: dict[str, Callable[[bytes], list[Any]]] = {"float8": read_floats, "int8": read_integers}
_NULLABLE_READERS: dict[str, Callable[[bytes | None, int], list[Any]]] = {
    "float8": read_nullable_floats,
    "int8": read_nullable_integers,
}


def listed(template: str, names: Iterable[str] = BAR_COLUMN_NAMES) -> str:
    """The template for each of these columns, with commas between; `{0}` is the column."""
    return ", ".join(template.format(name) for name in names)


def arrays_sent() -> str:
    """The select list that gives each column of bars, `at` and `final` as one binary array, null when the whole column is."""
    whole = listed("array_send(array_agg({0})) AS {0}", ("at", "final"))
    return ", ".join([whole, *map(_array_sent, BAR_COLUMNS)])


def _array_sent(column: BarColumn) -> str:
    name = column.name
    if not column.nullable:
        return f"array_send(array_agg({name})) AS {name}"
    return f"CASE WHEN count({name}) > 0 THEN array_send(array_agg(coalesce({name}, {_NULLS[column.type]}))) END AS {name}"


def read_column(column: BarColumn, array: bytes | None, count: int) -> list[Any]:
    """The `count` values of a column that `arrays_sent` sent."""
    if column.nullable:
        return _NULLABLE_READERS[column.type](array, count)
    return _READERS[column.type](array or b"")
