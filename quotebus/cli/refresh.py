"""`quotebus refresh`: have symbols refreshed, and say what became of each."""

import sys
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from contracts.datasets import DATASET_NAMES
from contracts.message import TIMEFRAMES
from quotebus.cli.context import CommandContext, config_options, nats_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, output_option, write
from quotebus.cli.progress import counting, waiting

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from contracts.refresh_ask import RefreshAnswer

GOOD = frozenset({"refreshed", "empty", "skipped", "merged"})
_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--dataset", type=click.Choice(DATASET_NAMES), default="bars", show_default=True)
@click.option("--timeframe", type=click.Choice(TIMEFRAMES), help="Of bars; 1d if nothing is said.")
@click.option("--start", type=_DAY, help="First day, UTC; without it the newest data.")
@click.option("--end", type=_DAY, help="The day after the last.")
@click.option("--provider", help="Ask this one; else the planner chooses.")
@click.option("--max-age", "max_age_s", type=click.FloatRange(min=0), help="Leave alone what is fresher, in seconds.")
@click.option("--wait/--no-wait", default=False, help="Wait for what becomes of each symbol; else only leave the wish.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 600), default=30.0, show_default=True, help="Seconds to wait.")
@output_option()
@config_options
def refresh(place: CommandContext, symbols: Sequence[str], *, wait: bool, output: str, timeout_s: float, **wish: object) -> int:
    """Have symbols refreshed, and say what became of each.

    Without --wait the wish is put on the bus and its id printed. With --wait there is one line a symbol, and the exit code
    says whether all (0), some (1) or none (2) of them have what was asked for.
    """
    wish |= {name: day.date() for name in ("start", "end") if isinstance(day := wish[name], datetime)}
    if not wait:
        request_id = run_async(_publish(place, symbols, wish))
        write([{"request_id": request_id, "symbols": list(symbols)}], output)
        return 0
    if len(symbols) > 1 and sys.stderr.isatty():
        rows = run_async(_ask_and_count(place, symbols, {**wish, "timeout_s": timeout_s}))
    else:
        with waiting(f"refreshing {len(symbols)} symbols" if len(symbols) > 1 else f"refreshing {symbols[0]}"):
            rows = run_async(_ask(place, symbols, {**wish, "timeout_s": timeout_s}))
    write(rows, output)
    good = sum(row["outcome"] in GOOD for row in rows)
    return 0 if good == len(rows) else 1 if good else 2


async def _publish(place: CommandContext, symbols: Sequence[str], wish: dict[str, object]) -> str:
    from contracts.refresh_request import RefreshRequest

    request = _made(RefreshRequest, symbols, wish)
    async with nats_of(place.here()) as qb:
        return await qb.request_refresh(request)


async def _ask(place: CommandContext, symbols: Sequence[str], wish: dict[str, object]) -> list[Row]:
    from contracts.refresh_ask import RefreshAsk

    ask = _made(RefreshAsk, symbols, wish)
    async with nats_of(place.here()) as qb:
        return _rows(await qb.refresh(ask))


async def _ask_and_count(place: CommandContext, symbols: Sequence[str], wish: dict[str, object]) -> list[Row]:
    """The same, with a bar of the symbols whose results are on the bus."""
    from contracts import subjects
    from contracts.message import decode
    from contracts.refresh_ask import RefreshAsk
    from contracts.run_events import RunResult

    ask = _made(RefreshAsk, symbols, {**wish, "request_id": f"ask-{uuid.uuid4().hex}"})
    done: set[str] = set()
    async with nats_of(place.here()) as qb:
        with counting(f"refreshing {len(symbols)} symbols", len(symbols)) as count:

            async def note(message: "Msg") -> None:
                result = decode(message.data, RunResult)
                if result.request_id == ask.request_id:
                    done.add(result.symbol)
                    count(len(done))

            await qb.nc.subscribe(subjects.run("result", None), cb=note)
            return _rows(await qb.refresh(ask))


def _rows(answer: "RefreshAnswer") -> list[Row]:
    import msgspec

    return [msgspec.structs.asdict(outcome) for outcome in answer.outcomes]


def _made(kind: Any, symbols: Sequence[str], wish: dict[str, object]) -> Any:
    import msgspec

    try:
        return msgspec.convert({"symbols": list(symbols), **wish}, kind)
    except msgspec.ValidationError as error:
        raise CommandError("bad_request", str(error)) from None
