"""`quotebus symbols`: list symbols that a provider does not have; reset them."""

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TextIO, get_args

import click

from contracts.symbol_health import SymbolState
from quotebus.cli.context import CommandContext, config_options, nats_of, postgres_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, output_option, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncpg import Connection

    from contracts.symbol_health import SymbolHealth
    from quotebus.client import Client

TABLES = ("tickers", "watchlist", "holdings", "transactions")
_provider = click.option("--provider", help="Only with this provider.")


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice(get_args(SymbolState)), help="Only those in this state; else all that are not active.")
@_provider
@output_option()
@config_options
@click.pass_context
def symbols(ctx: click.Context, place: CommandContext, *, state: str | None, provider: str | None, output: str) -> None:
    """List symbols that a provider does not have, or not in our plan: a probe now and then is all they cost."""
    if ctx.invoked_subcommand is not None:
        return
    found = run_async(_found(place, provider))
    shown = [health for health in found if (health.state == state if state else health.state != "active")]
    write((_row(health) for health in shown), output, f"no symbol is {state}" if state else "every symbol is active")


@symbols.command()
@click.argument("names", nargs=-1, metavar="[SYMBOL]...")
@click.option("--all", "everything", is_flag=True, help="All that are not active.")
@_provider
@output_option()
@config_options
def reset(place: CommandContext, names: Sequence[str], *, everything: bool, provider: str | None, output: str) -> int:
    """Take symbols for active again, so that the next run asks for them. Exit 1 if some were active already, 2 if all were."""
    if bool(names) == everything:
        raise CommandError("usage", "name symbols, or give --all: `quotebus symbols` lists those that are not active")
    rows = run_async(_reset(place, [name.strip().upper() for name in names], provider))
    write(rows, output, "every symbol is active")
    good = sum(row["outcome"] == "reset" for row in rows)
    return 0 if good == len(rows) else 1 if good else 2


@symbols.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8-sig"), metavar="FILE.csv")
@click.option("--table", type=click.Choice(TABLES), default="tickers", show_default=True, help="Where they go.")
@config_options
def import_rows(place: CommandContext, *, file: TextIO, table: str) -> int:
    """Put the rows of a CSV file ("-": standard input) into a table that universes are made of; its header names the columns.

    \b
    tickers       symbol [name] [is_active] [priority]
    watchlist     symbol [priority]
    holdings      symbol quantity
    transactions  id symbol quantity traded_at [price]

    A row whose symbol, or id, is there already takes its place. One bad row, and none is taken.
    """
    from quotebus.cli.import_csv import BadRowsError, rows_of, store_rows

    try:
        given = rows_of(table, file)
    except BadRowsError as error:
        raise CommandError("bad_request", f"{file.name}: {error}") from None
    run_async(_stored(place, partial(store_rows, given=given)))
    click.echo(f"{len(given.rows)} rows in {table}")
    return 0


async def _stored(place: CommandContext, store: "Callable[[Connection], Awaitable[None]]") -> None:
    async with postgres_of(place.here()) as connection:
        await store(connection)


def _row(health: "SymbolHealth") -> Row:
    return {
        "symbol": health.symbol,
        "provider": health.provider,
        "dataset": health.dataset,
        "timeframe": health.timeframe,
        "state": health.state,
        "since": health.since,
        "failures": health.failures,
        "next_probe_at": health.next_probe_at,
        "renamed_to": health.renamed_to,
        "message": health.message,
    }


async def _found(place: CommandContext, provider: str | None) -> list["SymbolHealth"]:
    async with nats_of(place.here()) as qb:
        return [health for health in await symbol_health(qb) if provider in (None, health.provider)]


async def symbol_health(qb: "Client") -> list["SymbolHealth"]:
    """The health of every symbol that ever had trouble, by name. What cannot be read is left out: fetchers take it for active."""
    import msgspec
    from nats.js.api import DeliverPolicy

    from contracts import subjects
    from contracts.message import decode
    from contracts.symbol_health import SymbolHealth
    from services.runtime.follow import read_stream

    found = []
    messages = read_stream(qb.nc, subjects.SYMBOLS, subjects.ALL_SYMBOL_HEALTH, DeliverPolicy.LAST_PER_SUBJECT)
    async with aclosing(messages):
        async for message in messages:
            try:
                found.append(decode(message.data, SymbolHealth))
            except msgspec.MsgspecError:
                continue
    return sorted(found, key=lambda health: (health.symbol, health.provider, health.dataset, health.timeframe or ""))


async def _reset(place: CommandContext, names: Sequence[str], provider: str | None) -> list[Row]:
    async with nats_of(place.here()) as qb:
        asleep = [h for h in await symbol_health(qb) if h.state != "active" and provider in (None, h.provider)]
        wanted = [health for health in asleep if not names or health.symbol in names]
        rows = [await _reset_one(qb, health) for health in wanted]
    known = {health.symbol for health in wanted}
    return [*rows, *(_reset_row(name, "active", "was active") for name in names if name not in known)]


async def _reset_one(qb: "Client", health: "SymbolHealth") -> Row:
    from contracts import subjects
    from contracts.message import encode
    from contracts.symbol_health import SymbolHealth

    now = datetime.now(UTC)
    active = SymbolHealth(
        provider=health.provider,
        dataset=health.dataset,
        timeframe=health.timeframe,
        symbol=health.symbol,
        state="active",
        before=health.state,
        since=now,
        at=now,
        by="person",
    )
    subject = subjects.symbol_health(health.provider, health.dataset, health.timeframe, health.symbol)
    await qb.js.publish(subject, encode(active), timeout=5)
    return _reset_row(health.symbol, health.state, "reset", health)


def _reset_row(symbol: str, was: str, outcome: str, health: "SymbolHealth | None" = None) -> Row:
    series = {name: getattr(health, name, None) for name in ("provider", "dataset", "timeframe")}
    return {"symbol": symbol, **series, "was": was, "outcome": outcome}
