"""`quotebus history`: print the stored bars of a symbol."""

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from contracts.message import TIMEFRAMES
from quotebus.cli.context import CommandContext, config_options, postgres_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import FORMATS, Output, output_option

if TYPE_CHECKING:
    import asyncpg

    from quotebus.cli.local_settings import LocalSettings
    from quotebus.cli.queries import SeriesWanted

_DAY = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])


@click.command()
@click.argument("symbol")
@click.option("--timeframe", type=click.Choice(TIMEFRAMES), default="1d", show_default=True)
@click.option("--start", type=_DAY, help="First day or instant, UTC; without it from the oldest on.")
@click.option("--end", type=_DAY, help="The day or instant after the last.")
@click.option("--basis", type=click.Choice(["raw", "split", "split_dividend"]), help="What the prices are adjusted for.")
@click.option("--feed", help="Class of source, such as eod, sip or synthetic.")
@output_option("table", [*FORMATS, "parquet"])
@config_options
def history(place: CommandContext, symbol: str, *, output: str, **wanted: str | datetime | None) -> int:
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


async def _print_bars(here: "LocalSettings", symbol: str, wanted: dict[str, str | datetime | None], output: str) -> int:
    from quotebus.cli.queries import bars

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
    from quotebus.cli.queries import SeriesWanted, series_of
    from services.runtime.prices.read_postgres import read_bars

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
