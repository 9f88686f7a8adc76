"""Every column of the table comes back from PostgreSQL, however it is read."""

import json
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from contracts.price_events import BAR_COLUMN_NAMES, BAR_COLUMNS, BarColumn
from quotebus.cli.queries import SeriesWanted, bars
from quotebus.cli.records import records_of
from services.cacher.migrate import migrate
from services.cacher.store_postgres.prices import SERVER_SETTINGS, PostgresStore
from services.gateway.read_postgres import EVER, BarsWanted, Store
from services.runtime.postgres import open_pool
from services.runtime.prices.document import BarsDocument, decode_bars, encode_document
from services.runtime.prices.read_postgres import read_bars
from services.runtime.settings import PostgresSettings, Secret
from tests.cacher.bar_samples import full_bars, type_of
from tests.cacher.events import NOON, read

EVENT = full_bars()
WANTED = ("AAPL", "1d", "split", "delayed")


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(postgres_url)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        yield pool


async def _columns(pool: asyncpg.Pool) -> BarsDocument:
    async with pool.acquire() as connection:
        [document] = await read_bars(connection, [("AAPL", "1d")], 10)
    return document


async def test_every_column_comes_back_from_every_reader(pool: asyncpg.Pool) -> None:
    await PostgresStore(pool).write(read(EVENT))
    async with pool.acquire() as connection:
        rows = [row async for row in bars(connection, SeriesWanted(*WANTED))]
    pieces: dict[str, bytes] = {"csv": b"", "ndjson": b""}
    store, wanted = Store(pool, 4), BarsWanted(*WANTED, *EVER)
    for form in ("csv", "ndjson"):

        async def keep(piece: bytes, form: str = form) -> None:
            pieces[form] += piece

        await store.download(wanted, form, keep)
    page = json.loads(await store.page(wanted, 10))
    header, *lines = [line.split(",") for line in pieces["csv"].decode().splitlines()]
    objects = [json.loads(line) for line in pieces["ndjson"].splitlines()]
    document = await _columns(pool)
    for column in BAR_COLUMNS:
        name, stored = column.name, getattr(EVENT, column.name)
        assert document.columns[name] == stored
        assert page[name] == stored
        assert [row[name] for row in rows] == stored
        assert [row[name] for row in objects] == stored
        assert [type_of(column)(line[header.index(name)]) for line in lines] == stored
        assert [record[name] for record in records_of(EVENT)] == stored


@pytest.mark.parametrize("column", [column for column in BAR_COLUMNS if column.nullable], ids=lambda column: column.name)
async def test_a_null_comes_back_as_null_and_a_later_value_takes_its_place(pool: asyncpg.Pool, column: BarColumn) -> None:
    values = getattr(EVENT, column.name)
    store = PostgresStore(pool)
    await store.write(read(full_bars(**{column.name: [None, *values[1:]]})))
    assert (await _columns(pool)).columns[column.name] == [None, *values[1:]]
    later = full_bars(observed_at=NOON.replace(hour=13))
    written = await store.write(read(later))
    assert (await _columns(pool)).columns[column.name] == values
    assert written.changed_bars == 1


@pytest.mark.parametrize("column", [column for column in BAR_COLUMNS if column.optional], ids=lambda column: column.name)
async def test_an_event_without_an_optional_column_leaves_what_is_stored(pool: asyncpg.Pool, column: BarColumn) -> None:
    store = PostgresStore(pool)
    await store.write(read(EVENT))
    later = full_bars(observed_at=NOON.replace(hour=13), **{column.name: None, "volume": [7.0, 8.0, 9.0]})
    await store.write(read(later))
    columns = (await _columns(pool)).columns
    assert columns[column.name] == getattr(EVENT, column.name)
    assert columns["volume"] == [7.0, 8.0, 9.0]


async def test_the_view_of_bars_has_every_column_of_the_table(pool: asyncpg.Pool) -> None:
    rows = await pool.fetch("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'price_bars'")
    types = {row["column_name"]: row["data_type"] for row in rows}
    names = {"float8": "double precision", "int8": "bigint"}
    assert {column.name: types.get(column.name) for column in BAR_COLUMNS} == {
        column.name: names[column.type] for column in BAR_COLUMNS
    }


async def test_a_stored_document_says_the_same_as_postgres(pool: asyncpg.Pool) -> None:
    await PostgresStore(pool).write(read(EVENT))
    document = await _columns(pool)
    for compress in (False, True):
        body = encode_document(document, compress=compress)
        assert compress or decode_bars(body).columns["close"] == document.columns["close"]
    assert msgspec.json.decode(encode_document(document, compress=False))["as_of"] == document.as_of
    assert {"at", *BAR_COLUMN_NAMES, "final"} == set(document.columns)
