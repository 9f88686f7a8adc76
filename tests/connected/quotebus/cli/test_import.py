"""`quotebus symbols import`: all rows of a file, or none."""

import io
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest


@pytest.fixture
async def migrated(servers: None, quotebus: Any) -> None:
    assert (await quotebus("migrate")).code == 0


async def rows(query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(os.environ["QUOTEBUS_POSTGRES__DSN"])
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_rows_are_imported_again_and_again_each_in_its_place(migrated: None, quotebus: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("\ufeffsymbol, name ,is_active\naapl,Apple,true\nBRK.B,,false\n".replace(" name ", "name"))
    ended = await quotebus("symbols", "import", str(file))
    assert (ended.code, ended.out) == (0, "2 rows in tickers\n"), ended.err
    file.write_text("symbol,priority\nAAPL,7\n")
    assert (await quotebus("symbols", "import", str(file))).code == 0
    assert await rows("SELECT symbol, name, is_active, priority FROM tickers ORDER BY 1") == [
        ("AAPL", "Apple", True, 7),
        ("BRK.B", None, False, 100),
    ]


async def test_every_table_of_a_universe_can_be_filled(migrated: None, quotebus: Any, tmp_path: Path) -> None:
    for table, text in {
        "watchlist": "symbol\nA\n",
        "holdings": "symbol,quantity\nA,1.5\n",
        "transactions": "id,symbol,quantity,traded_at,price\nt1,A,-2,2026-01-05T10:00:00Z,\n",
    }.items():
        file = tmp_path / f"{table}.csv"
        file.write_text(text)
        ended = await quotebus("symbols", "import", str(file), "--table", table)
        assert (ended.code, ended.err) == (0, "")
        assert [symbol for (symbol,) in await rows(f"SELECT symbol FROM {table}")] == ["A"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: no column symbol"),
        ("symbol,sector\nA,x\n", "line 1: unknown column 'sector'; there are symbol, name, is_active, priority"),
        ("symbol,is_active\nA,true\nB,perhaps\nC,1,2\n", "line 3: Expected `bool`"),
        ("symbol,priority\nA,1\n,2\nC,x\n", "line 3: Object missing required field `symbol`; line 4: Expected `int`"),
        ("symbol\n" + "A" * 65 + "\n", "line 2: symbol"),
        ("symbol,priority\nA,99999999999\n", "line 2: Expected `int` <= 2147483647"),
        ("symbol,priority,priority\nA,1,2\n", "line 1: column priority stands there twice"),
        ("symbol,name\nA,x\0y\n", "line 2: a zero byte"),
        ('symbol,name\nA,x\nB,"y\n', "line 3: unexpected end of data"),
        ("symbol,name\nA," + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
        ("symbol,name\nA,\udce9\n", "it is not UTF-8: invalid continuation byte: save it as such"),
    ],
)
async def test_one_bad_row_is_named_by_its_line_and_nothing_is_imported(
    migrated: None, quotebus: Any, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(text.encode(errors="surrogateescape"))
    ended = await quotebus("symbols", "import", str(file))
    assert ended.code not in (0, 1)
    assert says in ended.err, ended.err
    assert "nothing was imported" in ended.err or "line 1: " in ended.err
    assert not await rows("SELECT symbol FROM tickers")


@pytest.mark.parametrize("quantity", ["abc", "NaN", "Infinity", "1e200000"])
async def test_a_quantity_that_is_no_number_is_named(migrated: None, quotebus: Any, tmp_path: Path, quantity: str) -> None:
    (tmp_path / "held.csv").write_text(f"symbol,quantity\nA,1\nB,{quantity}\n")
    ended = await quotebus("symbols", "import", str(tmp_path / "held.csv"), "--table", "holdings")
    assert (ended.code, "line 3: " in ended.err, await rows("SELECT symbol FROM holdings")) == (2, True, [])


async def test_rows_can_come_on_standard_input(migrated: None, quotebus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"symbol,quantity\naapl,1\n")))
    ended = await quotebus("symbols", "import", "-", "--table", "holdings")
    assert (ended.code, ended.err, await rows("SELECT symbol, quantity FROM holdings")) == (0, "", [("AAPL", Decimal(1))])
