"""Connections of the commands: settings, NATS, PostgreSQL; with errors that name what is missing and the remedy."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from quotebus.cli.errors import CommandError

if TYPE_CHECKING:
    import asyncpg

    from quotebus.cli.local_settings import LocalSettings
    from quotebus.client import Client

T = TypeVar("T")
_START = "start everything with `quotebus up`, or set"


@dataclass(frozen=True)
class CommandContext:
    """Paths of a command's settings file and of the data folder of a running `quotebus up`."""

    config: Path | None
    data: Path

    def here(self) -> "LocalSettings":
        """The settings as they hold in this place."""
        from quotebus.cli.local_settings import local_settings
        from services.runtime.settings import SettingsError

        try:
            return local_settings(self.config, self.data)
        except SettingsError as error:
            raise CommandError("bad_settings", str(error)) from None


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--config` and `--data`; the command gets them as a `Place`, its first argument."""

    @click.option("--config", type=click.Path(path_type=Path), help="Settings file, if not ./quotebus.toml.")
    @click.option(
        "--data",
        type=click.Path(path_type=Path),
        default=Path(".quotebus"),
        envvar="QUOTEBUS_DATA",
        show_default=True,
        help="Data folder of the `quotebus up` that is meant.",
    )
    @functools.wraps(command)
    def with_place(*args: Any, config: Path | None, data: Path, **options: Any) -> Any:
        return command(CommandContext(config, data), *args, **options)

    return with_place


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end; what the servers refuse becomes one line."""
    import nats.errors
    from nats.js.errors import APIError, NotFoundError

    from quotebus.client import ClientError

    try:
        return asyncio.run(coroutine)
    except ClientError as error:
        raise CommandError(error.kind, str(error)) from None
    except NotFoundError as error:
        raise CommandError("not_provisioned", f"NATS: {error.description}: run `quotebus migrate`") from None
    except APIError as error:
        raise CommandError("refused", f"NATS refused: {error.description}") from None
    except nats.errors.Error as error:
        raise CommandError("timeout", f"NATS gave no answer: {reason_of(error)}; is JetStream enabled on it?") from None


@asynccontextmanager
async def nats_of(here: "LocalSettings") -> AsyncIterator["Client"]:
    """A client of the settings' NATS."""
    from quotebus import client
    from services.runtime.bus import connection_options

    terms = connection_options(here.settings.nats, "quotebus-cli")
    url = str(terms.pop("servers"))
    try:
        async with client.connect(url, **terms) as connected:
            yield connected
    except client.ClientError as error:
        if error.kind != "unreachable":
            raise
        origin = here.origin("nats", "url")
        raise CommandError("unreachable", f"{error} (url: {origin}); {_START} QUOTEBUS_NATS__URL") from None


@asynccontextmanager
async def postgres_of(here: "LocalSettings") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the settings' PostgreSQL."""
    import asyncpg

    dsn = here.settings.postgres.dsn.get_secret_value()
    try:
        connection = await asyncpg.connect(dsn, timeout=5, command_timeout=60, server_settings={"application_name": "quotebus-cli"})
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        where = f"no PostgreSQL at {without_password(dsn)}: {reason_of(error)} (dsn: {here.origin('postgres', 'dsn')})"
        raise CommandError("unreachable", f"{where}; {_START} QUOTEBUS_POSTGRES__DSN") from None
    try:
        yield connection
    except asyncpg.UndefinedTableError:
        raise CommandError("not_provisioned", "the database has no tables of quotebus: run `quotebus migrate`") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise CommandError("refused", f"PostgreSQL: {reason_of(error)}") from None
    finally:
        await connection.close()


def reason_of(error: BaseException) -> str:
    """Short reason of an error, in one line."""
    import os

    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return (str(error) or type(error).__name__).splitlines()[0]


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    try:
        parts = urlsplit(url)
        user = f"{parts.username}@" if parts.username else ""
        return parts._replace(netloc=f"{user}{parts.hostname or ''}" + (f":{parts.port}" if parts.port else ""), query="").geturl()
    except ValueError:
        return "(not a URL)"
