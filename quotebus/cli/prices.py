"""`quotebus price` and `quotebus history`: what is stored of a symbol."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from contracts.message import TIMEFRAMES, Timeframe
from quotebus.cli.connections import Place, place_options, postgres_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import FORMATS, Output, Row, age_of, output_option, write

if TYPE_CHECKING:
    import asyncpg

    from quotebus.read_postgres import SeriesWanted
    from quotebus.settings_here import Here
    from services.runtime.price_document import BarsDocument, QuoteDocument

_DAY = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])


@click.command()
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--timeframe", type=click.Choice(TIMEFRAMES), help="The newest bar of this; else the quote, or the newest 1d bar.")
@output_option()
@place_options
def price(place: Place, symbols: Sequence[str], *, timeframe: Timeframe | None, output: str) -> int:
    """Show the stored price of a symbol: from Redis if it is there, else from PostgreSQL; it says which, and how old it is."""
    rows = run_async(_newest(place.here(), symbols, timeframe))
    shown = [{**row, "as_of": age} for row, age in rows] if output == "table" else [row for row, _ in rows]
    write(shown, output)
    if missing := sorted(set(symbols) - {str(row["symbol"]) for row, _ in rows}):
        names = " ".join(missing)
        click.echo(f"quotebus: nothing is stored of {names}: `quotebus refresh {names} --wait` asks for it", err=True)
    return 0 if not missing else 1 if rows else 2


@click.command()
@click.argument("symbol")
@click.option("--timeframe", type=click.Choice(TIMEFRAMES), default="1d", show_default=True)
@click.option("--start", type=_DAY, help="First day or instant, UTC; without it from the oldest on.")
@click.option("--end", type=_DAY, help="The day or instant after the last.")
@click.option("--basis", type=click.Choice(["raw", "split", "split_dividend"]), help="What the prices are adjusted for.")
@click.option("--feed", help="Class of source, such as eod, sip or synthetic.")
@output_option("table", [*FORMATS, "parquet"])
@place_options
def history(place: Place, symbol: str, *, output: str, **wanted: str | datetime | None) -> int:
    """Print the stored bars of a symbol, oldest first.

    Where there are several series of it, real ones come before made-up ones and fresh before old; --basis and --feed choose.
    """
    if output == "parquet" and sys.stdout.isatty():
        raise CommandError("usage", "parquet is not for terminals: send it to a file with `> bars.parquet`")
    if output == "parquet" and find_spec("pyarrow") is None:
        raise CommandError("usage", "parquet needs pyarrow: `pip install pyarrow`, or take -o csv")
    for name in ("start", "end"):
        instant = wanted[name]
        if isinstance(instant, datetime) and instant.tzinfo is None:
            wanted[name] = instant.replace(tzinfo=UTC)
    match wanted:
        case {"start": datetime() as start, "end": datetime() as end} if start >= end:
            raise CommandError("usage", f"--end: {end:%Y-%m-%d %H:%M:%S} is not after --start")
    count = run_async(_print_bars(place.here(), symbol, wanted, output))
    return 0 if count else 2


async def _newest(here: "Here", symbols: Sequence[str], timeframe: Timeframe | None) -> list[tuple[Row, str]]:
    found = []
    async with AsyncExitStack() as stack:
        connection: asyncpg.Connection[asyncpg.Record] | None = None
        for symbol in symbols:
            row = None
            # Without a timeframe the quote, or for what is never quoted its last daily bar.
            for kind in (timeframe,) if timeframe else (None, "1d"):
                row = row or await _from_redis(here, symbol, kind)
                if row is None:
                    if connection is None:
                        connection = await stack.enter_async_context(postgres_of(here))
                    row = await _from_postgres(connection, symbol, kind)
            if row:
                found.append(row)
    return found


async def _from_redis(here: "Here", symbol: str, timeframe: str | None) -> tuple[Row, str] | None:
    from services.runtime.read_redis import RedisUnreadableError, read_price

    try:
        document = await read_price(here.settings.redis, symbol, timeframe)
    except RedisUnreadableError as error:
        click.echo(f"quotebus: {error}; asking PostgreSQL", err=True)
        return None
    return _row(document, "redis") if document else None


async def _from_postgres(
    connection: "asyncpg.Connection[asyncpg.Record]", symbol: str, timeframe: str | None
) -> tuple[Row, str] | None:
    from services.runtime.read_postgres import read_bars, read_quotes

    documents: Sequence[BarsDocument | QuoteDocument]
    documents = await read_bars(connection, [(symbol, timeframe)], 1) if timeframe else await read_quotes(connection, [symbol])
    return _row(documents[0], "postgres") if documents else None


def _row(document: "BarsDocument | QuoteDocument", source: str) -> tuple[Row, str]:
    """The row, and the age of what it shows."""
    from services.runtime.price_document import BarsDocument

    price: float | None
    at: datetime | None
    as_of = datetime.fromisoformat(document.as_of)
    if isinstance(document, BarsDocument):
        what, price, at = f"{document.timeframe} close", document.columns["close"][-1], document.columns["at"][-1]
    else:
        what, price, at = "quote", document.price, document.at
    row = {
        "symbol": document.symbol, "price": price, "currency": document.currency, "what": what, "at": at,
        "provider": document.provider, "feed": document.feed, "as_of": as_of, "from": source,
    }  # fmt: skip
    return row, f"{age_of(as_of, datetime.now(UTC))} ago"


async def _print_bars(here: "Here", symbol: str, wanted: dict[str, str | datetime | None], output: str) -> int:
    from quotebus.read_postgres import bars

    async with postgres_of(here) as connection:
        series = await _chosen(connection, symbol, wanted)
        async with aclosing(bars(connection, series)) as rows:
            if output == "parquet":
                return await _print_parquet(rows)
            printed = Output(output)
            async for row in rows:
                printed.add(row)
        count = printed.end()
    if not count:
        click.echo(f"quotebus: no {series.timeframe} bars of {symbol} are stored in that time", err=True)
    return count


async def _chosen(
    connection: "asyncpg.Connection[asyncpg.Record]", symbol: str, wanted: dict[str, str | datetime | None]
) -> "SeriesWanted":
    from quotebus.read_postgres import SeriesWanted, series_of
    from services.runtime.read_postgres import read_bars

    timeframe, basis, feed = str(wanted["timeframe"]), wanted["basis"], wanted["feed"]
    there = await series_of(connection, symbol, timeframe)
    fitting = [each for each in there if basis in (None, each[0]) and feed in (None, each[1])]
    if not fitting:
        if there:
            known = ", ".join(" ".join(each) for each in there)
            raise CommandError("not_found", f"no such {timeframe} bars of {symbol} are stored: there is {known}")
        advice = f"`quotebus refresh {symbol} --timeframe {timeframe} --wait` asks for them"
        raise CommandError("not_found", f"no {timeframe} bars of {symbol} are stored: {advice}")
    if len(fitting) > 1:
        # The one that readers of the newest bars get as well.
        speaking = {(bars.basis, bars.feed) for bars in await read_bars(connection, [(symbol, timeframe)], 1)}
        fitting.sort(key=lambda each: each not in speaking)
    start, end = (instant if isinstance(instant := wanted[name], datetime) else None for name in ("start", "end"))
    return SeriesWanted(symbol, timeframe, *fitting[0], start, end)


async def _print_parquet(rows: AsyncIterator[dict[str, object]]) -> int:
    table = import_module("pyarrow").Table.from_pylist([row async for row in rows])
    import_module("pyarrow.parquet").write_table(table, sys.stdout.buffer)
    return int(table.num_rows)
