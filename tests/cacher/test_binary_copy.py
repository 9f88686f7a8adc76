"""One table of columns: the contract has just these, and each is packed, compared and joined by what the table says of it."""

from itertools import product
from struct import pack
from types import NoneType, UnionType
from typing import get_args, get_type_hints

import msgspec
import pytest

from contracts.message import encode
from contracts.price_events import BAR_COLUMN_NAMES, BAR_COLUMNS, CORRECTED_COLUMNS, BarColumn, PriceBars
from services.cacher.binary_copy import BarValues, Instants, bar_values, pack_bars
from services.cacher.decode_event import EventDecoder, MalformedEventError
from services.cacher.store_postgres.bars import changed_rows
from services.fetcher.adapter.events import Bar
from services.runtime.prices.document import BarsDocument, WrittenBars, decode_bars, encode_document
from tests.cacher.bar_samples import full_bars, nullable, sample, type_of

ROWS = 4


def _with(column: BarColumn, nulls: str) -> list[float | None]:
    values: list[float | None] = list(sample(column, ROWS))
    return {"none": values, "all": [None] * ROWS, "some": [None if row % 2 else value for row, value in enumerate(values)]}[nulls]


def _packed_by_hand(bars: BarValues, row: int) -> bytes:
    fields = [pack(">iq", 8, bars.at[row])]
    for column, values in zip(BAR_COLUMNS, bars.values, strict=True):
        value = values[row]
        fields.append(pack(">i", -1) if value is None else pack(">iq" if column.type == "int8" else ">id", 8, value))
    return b"".join([*fields, pack(">ib", 1, bars.final[row])])


def test_the_table_names_every_column_of_the_event_and_no_other():
    hints = get_type_hints(PriceBars)
    columns = [name for name in PriceBars.__struct_fields__ if any(kind.__origin__ is list for kind in _lists(hints[name]))]
    assert sorted(columns) == sorted(("at", *BAR_COLUMN_NAMES, "final", "fallback_from"))
    for column in BAR_COLUMNS:
        [values] = _lists(hints[column.name])
        [value] = get_args(values)
        assert type_of(column) in (value, *get_args(value)), f"{column.name}: the table says {column.type}"
        assert (NoneType in get_args(value)) is column.nullable, f"{column.name}: nullable"
        assert isinstance(hints[column.name], UnionType) is column.optional, f"{column.name}: optional"


def _lists(hint: object) -> list[object]:
    return [kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if hasattr(kind, "__origin__")]


@pytest.mark.parametrize("nulls", list(product(("none", "some", "all"), repeat=len(nullable()))))
def test_whatever_is_null_is_packed_as_postgres_reads_it(nulls: tuple[str, ...]):
    columns = {column.name: _with(column, each) for column, each in zip(nullable(), nulls, strict=True)}
    bars = bar_values(full_bars(ROWS, **columns), Instants())
    assert pack_bars(bars) == [_packed_by_hand(bars, row) for row in range(ROWS)]


def test_no_bars_are_packed_as_none():
    assert pack_bars(bar_values(full_bars(0), Instants())) == []


@pytest.mark.parametrize("name", BAR_COLUMN_NAMES)
def test_a_change_in_any_column_is_seen_in_its_row_alone(name: str):
    stored = bar_values(full_bars(ROWS), Instants())
    moved = list(getattr(full_bars(ROWS), name))
    moved[2] += 1
    changed = bar_values(msgspec.structs.replace(full_bars(ROWS), **{name: moved}), Instants())
    assert changed_rows(changed, stored) == [2]
    assert changed_rows(stored, stored) == []


@pytest.mark.parametrize("column", [column for column in BAR_COLUMNS if column.optional], ids=lambda column: column.name)
def test_an_optional_column_that_is_left_out_differs_from_nothing(column: BarColumn):
    stored = bar_values(full_bars(ROWS), Instants())
    assert changed_rows(bar_values(full_bars(ROWS, **{column.name: None}), Instants()), stored) == []


@pytest.mark.parametrize("name", BAR_COLUMN_NAMES)
def test_a_column_of_another_length_is_no_event(name: str):
    with pytest.raises(ValueError, match=f"{name}: 1 values for 4 rows"):
        full_bars(ROWS, **{name: sample(BAR_COLUMNS[BAR_COLUMN_NAMES.index(name)], 1)})


@pytest.mark.parametrize("column", [column for column in BAR_COLUMNS if column.unit == "count"], ids=lambda column: column.name)
def test_a_count_below_zero_is_never_stored(column: BarColumn):
    event = full_bars(ROWS, **{column.name: [*sample(column, ROWS - 1), type_of(column)(-1)]})
    with pytest.raises(MalformedEventError, match=f"{column.name}: a {column.name} is never negative"):
        EventDecoder().decode("price.bars.1d.AAPL", encode(event))


def test_a_document_holds_every_column_and_comes_back():
    event = full_bars(ROWS)
    columns = {name: getattr(event, name) for name in ("at", *BAR_COLUMN_NAMES, "final")}
    document = BarsDocument(
        symbol="AAPL", provider="yahoo", currency="USD", timeframe="1d", columns=columns, basis="split", feed="delayed", real=1,
        as_of="2024-03-04T12:00:00.000000Z",
    )  # fmt: skip
    assert decode_bars(encode_document(document, compress=False)) == document
    assert {"at", *BAR_COLUMN_NAMES, "final"} < set(WrittenBars.__struct_fields__)


def test_a_document_of_an_older_version_lacks_a_column_and_is_read():
    older = (
        b'{"symbol":"AAPL","provider":"yahoo","currency":"USD","timeframe":"1d","at":["2024-01-02T00:00:00Z"],"open":[1.0],'
        b'"high":[2.0],"low":[1.0],"close":[2.0],"volume":[5.0],"final":[true],"basis":"split","feed":"delayed","real":1,'
        b'"as_of":"2024-03-04T12:00:00.000000Z"}'
    )
    columns = decode_bars(older).columns
    assert columns["close"] == [2.0]
    assert all(columns[column.name] == [None] for column in BAR_COLUMNS if column.optional)


def test_an_adapters_bar_has_the_columns_of_the_table_in_its_order():
    assert Bar._fields == ("at", *BAR_COLUMN_NAMES)


def test_a_correction_lists_columns_that_bars_have():
    assert set(CORRECTED_COLUMNS) <= set(BAR_COLUMN_NAMES)
