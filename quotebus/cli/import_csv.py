"""Rows of a CSV file into the tables that universes are made of: all of them, or none."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TextIO

import msgspec
from asyncpg import Connection

from contracts.subjects import symbol_token

MOST_NAMED = 5
# Powers of ten that no quantity and no price lies beyond; the database knows some that do.
LARGEST_POWER = 100
Filled = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class BadRowsError(ValueError):
    """The file cannot be taken; the text names the lines and what is wrong with them."""


class Ticker(msgspec.Struct, forbid_unknown_fields=True):
    symbol: Filled
    name: str | None = None
    is_active: bool = True
    priority: Whole = 100


class Watched(msgspec.Struct, forbid_unknown_fields=True):
    symbol: Filled
    priority: Whole = 100


class Holding(msgspec.Struct, forbid_unknown_fields=True):
    symbol: Filled
    quantity: Decimal


class Transaction(msgspec.Struct, forbid_unknown_fields=True):
    id: Filled
    symbol: Filled
    quantity: Decimal
    traded_at: Annotated[datetime, msgspec.Meta(tz=True)]
    price: Decimal | None = None


Row = Ticker | Watched | Holding | Transaction
KINDS: Mapping[str, type[Row]] = {"tickers": Ticker, "watchlist": Watched, "holdings": Holding, "transactions": Transaction}


@dataclass(frozen=True)
class Imported:
    """Rows that a file gives for a table, with the columns that the file has."""

    table: str
    columns: Sequence[str]
    rows: Sequence[Row]


def rows_of(table: str, file: TextIO) -> Imported:
    """Read the rows of a CSV file with a header, symbols upper case; of several rows with one key the last wins.

    Raises:
        BadRowsError: a row or the header is not as the table wants it.
    """
    kind = KINDS[table]
    reader = csv.DictReader(file, skipinitialspace=True, strict=True)
    try:
        columns = list(reader.fieldnames or ())
        _check_header(columns, kind)
        rows, faults = _read(reader, kind)
    except csv.Error as error:
        raise BadRowsError(f"line {reader.reader.line_num}: {error}; nothing was imported") from None
    except UnicodeDecodeError as error:
        # Text is decoded in blocks, so which line it was is not known.
        raise BadRowsError(f"it is not UTF-8: {error.reason}: save it as such; nothing was imported") from None
    if faults:
        more = f" (and {len(faults) - MOST_NAMED} more)" if len(faults) > MOST_NAMED else ""
        raise BadRowsError(f"{'; '.join(faults[:MOST_NAMED])}{more}; nothing was imported")
    return Imported(table, columns, list(rows.values()))


async def store_rows(connection: "Connection[Any]", given: Imported) -> None:
    """Put the rows into their table. One that is there already gets the columns of the file, and keeps the others."""
    table, columns = given.table, given.columns
    key = "id" if table == "transactions" else "symbol"
    named = ", ".join(columns)
    taken = ", ".join(f"{column} = excluded.{column}" for column in columns)
    records = [tuple(getattr(row, column) for column in columns) for row in given.rows]
    # Nothing in these statements comes from the file.
    make = f"CREATE TEMP TABLE imported ON COMMIT DROP AS SELECT {named} FROM {table} WITH NO DATA"
    fill = f"INSERT INTO {table} ({named}) SELECT {named} FROM imported ON CONFLICT ({key}) DO UPDATE SET {taken}"
    async with connection.transaction():
        await connection.execute(make)
        await connection.copy_records_to_table("imported", records=records, columns=columns)
        await connection.execute(fill)


def _check_header(header: Sequence[str], kind: type[Row]) -> None:
    known = [field.name for field in msgspec.structs.fields(kind)]
    wanted = [field.name for field in msgspec.structs.fields(kind) if field.required]
    if strange := [name for name in header if name not in known]:
        raise BadRowsError(f"line 1: unknown column {strange[0]!r}; there are {', '.join(known)}")
    if twice := [name for name in known if header.count(name) > 1]:
        raise BadRowsError(f"line 1: column {twice[0]} stands there twice")
    if missing := [name for name in wanted if name not in header]:
        raise BadRowsError(f"line 1: no column {missing[0]}; the first line names the columns: {', '.join(known)}")


def _read(reader: "csv.DictReader[str]", kind: type[Row]) -> tuple[dict[str, Row], list[str]]:
    """The good rows by their key, and what is wrong with the others."""
    rows: dict[str, Row] = {}
    faults = []
    for fields in reader:
        try:
            row = _row(kind, fields)
        except (msgspec.ValidationError, ValueError) as error:
            faults.append(f"line {reader.line_num}: {error}")
        else:
            rows[_key(row)] = row
    return rows, faults


def _row(kind: type[Row], fields: Mapping[str | Any, Any]) -> Row:
    if None in fields:
        raise ValueError("more fields than the header has")
    if any("\0" in value for value in fields.values() if value):
        raise ValueError("a zero byte")
    given = {name: value.strip() for name, value in fields.items() if value is not None and value.strip()}
    if "symbol" in given:
        given["symbol"] = given["symbol"].upper()
        symbol_token(given["symbol"])
    row = msgspec.convert(given, kind, strict=False)
    for name in ("quantity", "price"):
        number = getattr(row, name, None)
        if number is not None and (not number.is_finite() or abs(number.adjusted()) > LARGEST_POWER):
            raise ValueError(f"{name}: {number} is no number that can be kept")
    return row


def _key(row: Row) -> str:
    return row.id if isinstance(row, Transaction) else row.symbol
