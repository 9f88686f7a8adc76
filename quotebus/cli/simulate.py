"""`quotebus simulate`: play a vendor: answers, errors, quotas; no key."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from quotebus.cli.errors import CommandError

if TYPE_CHECKING:
    from quotebus.simulate.server import Simulator

_COUNT = click.IntRange(min=0)
_LIMIT = "Requests it allows; 0: any number. Default: those of the vendor's free plan."


@click.command()
@click.argument("providers", nargs=-1, required=True, metavar="PROVIDER...")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Of a single provider; 0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to answer; 0.0.0.0 in a container.")
@click.option("--per-second", type=_COUNT, help=_LIMIT)
@click.option("--per-minute", type=_COUNT, help="Likewise.")
@click.option("--per-hour", type=_COUNT, help="Likewise.")
@click.option("--per-day", type=_COUNT, help="Likewise.")
@click.option("--per-month", type=_COUNT, help="Likewise.")
@click.option(
    "--faults", type=click.FloatRange(0, 1), default=0.0, help="This share of the requests goes wrong in one way or another."
)
@click.option("--latency-ms", type=click.FloatRange(min=0), default=0.0, help="How long it takes to answer.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another market, and other faults.")
def simulate(
    providers: tuple[str, ...], port: int, host: str, faults: float, latency_ms: float, seed: int, **limits: int | None
) -> None:
    """Play vendors on this machine: their paths, answers, errors and quotas, with made-up prices. Ctrl-C ends it.

    For each a line says where it answers, and with which variables quotebus asks there. Every symbol exists but those that begin
    with DEAD; those that begin with PAID want a larger plan. GET /_quotebus/calls tells what was asked, and each request too many.
    """
    from quotebus.simulate.server import Rules, Simulator
    from quotebus.simulate.vendor import vendors

    known = vendors()
    for name in providers:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise CommandError("usage", f"no provider {name!r} to simulate; {hint}")
    if port and len(providers) > 1:
        raise CommandError("usage", f"--port {port}: is for one provider; leave it out for {len(providers)}, each finds its own")
    given: dict[str, Any] = {window: limit for window, limit in limits.items() if limit is not None}
    rules = Rules(faults=faults, latency_s=latency_ms / 1000, seed=seed)
    played = [
        Simulator(known[n], replace(rules, limits=replace(known[n].profile.limits, **given))) for n in dict.fromkeys(providers)
    ]
    try:
        asyncio.run(_serve(played, (host, port), given))
    except OSError as error:
        raise CommandError("in_use", f"--port {port}: {error.strerror or error}; leave it out for any free one") from error


async def _serve(played: Sequence["Simulator"], where: tuple[str, int], limits: Mapping[str, int]) -> None:
    host, port = where
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        for simulator in played:
            await stack.enter_async_context(simulator.serve(port, host))
            variables = " ".join(f"{name}={value}" for name, value in simulator.environment(limits).items())
            click.echo(f"{simulator.vendor.name} at {simulator.url}: {variables}")
        await stop.wait()
