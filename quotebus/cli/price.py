"""`quotebus price`: show the price of a symbol, and how old it is."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from contracts.message import TIMEFRAMES, Timeframe
from quotebus.cli.context import CommandContext, config_options, postgres_of, run_async
from quotebus.cli.output import Row, age_of, output_option, write

if TYPE_CHECKING:
    import asyncpg

    from quotebus.cli.local_settings import LocalSettings
    from services.runtime.prices.document import BarsDocument, QuoteDocument


@click.command()
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--timeframe", type=click.Choice(TIMEFRAMES), help="The newest bar of this; else the quote, or the newest 1d bar.")
@output_option()
@config_options
def price(place: CommandContext, symbols: Sequence[str], *, timeframe: Timeframe | None, output: str) -> int:
    """Show the stored price of a symbol: from Redis if it is there, else from PostgreSQL; it says which, and how old it is."""
    rows = run_async(_newest(place.here(), symbols, timeframe))
    shown = [{**row, "as_of": age} for row, age in rows] if output == "table" else [row for row, _ in rows]
    write(shown, output)
    if missing := sorted(set(symbols) - {str(row["symbol"]) for row, _ in rows}):
        names = " ".join(missing)
        click.echo(f"quotebus: nothing is stored of {names}: `quotebus refresh {names} --wait` asks for it", err=True)
    return 0 if not missing else 1 if rows else 2


async def _newest(here: "LocalSettings", symbols: Sequence[str], timeframe: Timeframe | None) -> list[tuple[Row, str]]:
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


async def _from_redis(here: "LocalSettings", symbol: str, timeframe: str | None) -> tuple[Row, str] | None:
    from services.runtime.prices.read_redis import RedisUnreadableError, read_price

    try:
        document = await read_price(here.settings.redis, symbol, timeframe)
    except RedisUnreadableError as error:
        click.echo(f"quotebus: {error}; asking PostgreSQL", err=True)
        return None
    return _row(document, "redis") if document else None


async def _from_postgres(
    connection: "asyncpg.Connection[asyncpg.Record]", symbol: str, timeframe: str | None
) -> tuple[Row, str] | None:
    from services.runtime.prices.read_postgres import read_bars, read_quotes

    documents: Sequence[BarsDocument | QuoteDocument]
    documents = await read_bars(connection, [(symbol, timeframe)], 1) if timeframe else await read_quotes(connection, [symbol])
    return _row(documents[0], "postgres") if documents else None


def _row(document: "BarsDocument | QuoteDocument", source: str) -> tuple[Row, str]:
    """The row, and the age of what it shows."""
    from services.runtime.prices.document import BarsDocument

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
