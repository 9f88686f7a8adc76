"""`quotebus doctor`: check everything, and say what to do."""

import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from quotebus.cli.context import CommandContext, config_options, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import output_option, text_of, write

if TYPE_CHECKING:
    from quotebus.cli.checks import Check

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@output_option()
@config_options
def doctor(place: CommandContext, *, output: str) -> int:
    """Check settings, servers, streams, clocks, keys, backlog and dead letters; say what to do. Exit 1 if something fails."""
    found = run_async(_collected(place, aloud=output == "table"))
    if output != "table":
        write([asdict(check) for check in found], output)
    return 1 if any(check.state == "fail" for check in found) else 0


async def _collected(place: CommandContext, *, aloud: bool) -> list["Check"]:
    found = []
    async for check in _all_checks(place):
        found.append(check)
        if aloud:
            state = click.style(f"{check.state:<4}", _COLOURS[check.state])
            click.echo(f"{state}  {check.what:<13}  {text_of(check.found)}" + (f": {check.do}" if check.do else ""))
            sys.stdout.flush()
    return found


async def _all_checks(place: CommandContext) -> AsyncIterator["Check"]:
    from quotebus.cli.checks import Check, checks

    try:
        here = place.here()
    except CommandError as error:
        for problem in error.message.splitlines():
            yield Check("fail", "settings", problem)
        return
    source = f"; servers from {here.file}" if here.file else ""
    yield Check("ok", "settings", f"{len(here.settings.providers)} providers, {len(here.settings.job)} jobs{source}")
    async for check in checks(here):
        yield check
