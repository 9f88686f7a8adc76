"""`quotebus up`: run everything here: servers, services, synthetic prices."""

import asyncio
import os
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quotebus.cli.errors import CommandError

if TYPE_CHECKING:
    from quotebus.stack import StackOptions
    from quotebus.stack.endpoints import Endpoints

_PORT = click.IntRange(0, 65535)
_MADE_UP = """\
No provider and no job is configured, so these prices are synthetic: made up, to look around with.
Real ones: name a provider under [providers] in quotebus.toml, and say whose with `quotebus symbols import --table watchlist`."""


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".quotebus"),
    envvar="QUOTEBUS_DATA",
    show_default=True,
    help="Folder that holds everything, kept from one start to the next.",
)
@click.option("--port", "http_port", type=_PORT, help="Of HTTP. Default: 8088 if free, else any free one, which 0 asks for.")
@click.option("--nats-port", type=_PORT, help="Default: 4222 if free, else any free one, which 0 asks for.")
@click.option("--postgres-port", type=_PORT, help="Default: 55432 if free, else any free one, which 0 asks for.")
@click.option("--redis-port", type=_PORT, help="Default: 56379 if free, else any free one, which 0 asks for.")
def up(data: Path, http_port: int | None, nats_port: int | None, postgres_port: int | None, redis_port: int | None) -> None:
    """Start NATS, PostgreSQL, Redis and all services here, and show the prices as they come. Ctrl-C stops them all.

    Needs no keys: with nothing configured it shows a synthetic market.
    """
    from quotebus.embedded import FolderInUseError, ServerError
    from quotebus.stack import StackOptions
    from services.cacher.migrate import MigrationError
    from services.runtime.settings import SettingsError

    try:
        _run(StackOptions(data, nats_port, postgres_port, redis_port, http_port))
    except FolderInUseError as error:
        raise CommandError("in_use", str(error)) from error
    except (ServerError, MigrationError) as error:
        raise CommandError("not_started", str(error)) from error
    except SettingsError as error:
        raise CommandError("settings", str(error)) from error
    except PermissionError as error:
        where = error.filename or data
        raise CommandError("permission", f"{where}: permission denied: give a folder you may write to with --data") from error


def _run(options: "StackOptions") -> None:
    from quotebus.provision import prepare
    from quotebus.stack import NOTIFIER
    from quotebus.stack import up as run_stack
    from quotebus.stack.demo import demo_environment, first_requests
    from quotebus.stack.live_prices import ask_for, show_prices
    from services.fetcher.provider import providers
    from services.runtime.settings import load_settings

    since = datetime.now(UTC)
    settings = load_settings(known_providers=providers())
    options = replace(options, usual_http_port=settings.gateway.port)
    if settings.notify:
        options = replace(options, services={**options.services, **NOTIFIER})
    demo = demo_environment(settings)
    # The services inherit this process's environment: so all of us read the same settings.
    os.environ.update(demo)

    async def make_ready(endpoints: "Endpoints") -> None:
        os.environ.update(endpoints.environment())
        await prepare(load_settings())

    async def show(endpoints: "Endpoints") -> None:
        _say(_hints(options.data, endpoints, made_up=bool(demo)))
        if demo:
            await ask_for(endpoints.nats, first_requests())
        await show_prices(endpoints.nats, since, _say)

    asyncio.run(run_stack(options, prepare=make_ready, meanwhile=show, say=_say))


def _hints(data: Path, endpoints: "Endpoints", *, made_up: bool) -> str:
    # As it was started: in a folder's own environment the bare name is not on PATH.
    program = "quotebus" if shutil.which("quotebus") else min(os.path.relpath(sys.argv[0]), sys.argv[0], key=len)
    elsewhere = "" if data == Path(".quotebus") else f"QUOTEBUS_DATA={data} "
    return f"""
{endpoints.http or ""} shows jobs, runs and prices as they come.
Everything runs; data, logs and {data / "endpoints.json"} are in {data}. In another terminal:
  {elsewhere}{program} refresh AAPL BRK.B --wait
  {elsewhere}{program} watch 'quote.*'
  {elsewhere}{program} price AAPL
  curl {endpoints.http}/prices/AAPL
  nats sub -s {endpoints.nats} 'price.quote.*'
Ctrl-C stops everything.
{_MADE_UP if made_up else ""}"""


def _say(line: str) -> None:
    click.echo(line)
