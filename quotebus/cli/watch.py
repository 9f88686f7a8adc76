"""`quotebus watch`: show prices as they come."""

import sys
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from quotebus.cli.context import CommandContext, config_options, nats_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, age_of, text_of

if TYPE_CHECKING:
    from rich.table import Table

    from quotebus.cli.local_settings import LocalSettings
    from quotebus.client import AnyPrice

_TURN_S = 0.25


@click.command()
@click.argument("pattern", default="quote.*")
@click.option("--json", "as_json", is_flag=True, help="One event a line, as on the bus; the default where stdout is no terminal.")
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after so many events.")
@config_options
def watch(place: CommandContext, pattern: str, *, as_json: bool, count: int | None) -> None:
    """Show prices as they come, the last known of each series first.

    PATTERN is a subject without its first word, such as 'quote.*', 'bars.1d.*' or 'bars.*.AAPL', or a symbol. Ctrl-C ends it.
    """
    from quotebus.client import price_subject

    try:
        price_subject(pattern)
    except ValueError as error:
        raise CommandError("usage", f"PATTERN: {error}") from None
    here = place.here()
    table = sys.stdout.isatty() and not as_json
    try:
        run_async(_show_table(here, pattern, count) if table else _print_events(here, pattern, count))
    except KeyboardInterrupt:
        # The only way to end it is no error.
        return


async def _print_events(here: "LocalSettings", pattern: str, count: int | None) -> None:
    from contracts.message import encode

    async with nats_of(here) as qb, aclosing(qb.prices(pattern)) as events:
        async for event in events:
            sys.stdout.write(encode(event).decode() + "\n")
            # Whoever reads our lines waits for this one.
            sys.stdout.flush()
            count = count and count - 1
            if count == 0:
                return


async def _show_table(here: "LocalSettings", pattern: str, count: int | None) -> None:
    import asyncio

    from rich.live import Live

    rows: dict[tuple[str, str], Row] = {}

    async def refresh(live: Live) -> None:
        while True:
            live.update(_drawn(rows, pattern), refresh=True)
            await asyncio.sleep(_TURN_S)

    with Live(auto_refresh=False) as live:
        async with nats_of(here) as qb, aclosing(qb.prices(pattern)) as events:
            drawing = asyncio.create_task(refresh(live))
            try:
                async for event in events:
                    row = row_of(event)
                    rows[str(row["symbol"]), str(row["what"])] = row
                    count = count and count - 1
                    if count == 0:
                        break
            finally:
                drawing.cancel()
                live.update(_drawn(rows, pattern), refresh=True)


def row_of(event: "AnyPrice") -> Row:
    """Table row of an event: its newest price, and its source."""
    from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceCorrected, PriceIv, PriceQuarantined, PriceQuote

    at: datetime | None = None
    price: float | None = None
    note = ""
    match event:
        case PriceQuote():
            what, at, price = "quote", event.at, event.price
            note = f"{text_of(event.bid)} / {text_of(event.ask)}" if event.bid or event.ask else ""
        case PriceBars():
            what = f"{event.timeframe} bars"
            if event.at:
                at, price, note = event.at[-1], event.close[-1], "" if event.final[-1] else "not final"
        case PriceCorrected():
            what, at, price, note = f"{event.timeframe} corrected", event.at, event.after[3], f"was {text_of(event.before[3])}"
        case PriceChain():
            what, note = "chain", f"{len(event.contract)} contracts"
        case PriceIv():
            what, at, note = "iv", event.at, "" if event.iv_30d is None else f"{event.iv_30d:.1%} in 30 days"
        case PriceActions():
            what, note = "actions", f"{len(event.date)} actions"
        case PriceQuarantined():
            what, note = "quarantined", " ".join(sorted(set(event.rule)))
    seen = event.observed_at if isinstance(event, PriceCorrected) else event.fetched_at
    return {
        "symbol": event.symbol, "what": what, "price": price, "at": at, "seen": seen, "provider": event.provider,
        "feed": event.feed, "note": note,
    }  # fmt: skip


def _drawn(rows: dict[tuple[str, str], Row], pattern: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    now = datetime.now(UTC)
    table = Table(box=None, caption=None if rows else f"waiting for {pattern}")
    for name in ("symbol", "what", "price", "at", "age", "provider", "note"):
        table.add_column(name, justify="right" if name in ("price", "age") else "left")
    for _, row in sorted(rows.items()):
        seen = row["seen"]
        age = age_of(seen, now) if isinstance(seen, datetime) else ""
        made_up = " (made up)" if row["feed"] == "synthetic" else ""
        cells = [text_of(row["price"]), text_of(row["at"]), age, f"{row['provider']}{made_up}", str(row["note"])]
        table.add_row(*map(Text, [text_of(row["symbol"]), str(row["what"]), *cells]))
    return table
