"""`quotebus migrate`: bring database and streams up to date."""

from typing import TYPE_CHECKING

import click

from quotebus.cli.context import CommandContext, config_options, nats_of, postgres_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, output_option, write
from quotebus.cli.progress import waiting

if TYPE_CHECKING:
    from quotebus.cli.local_settings import LocalSettings
    from quotebus.client import Client


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit 1 if something is pending.")
@output_option()
@config_options
def migrate(place: CommandContext, *, check: bool, output: str) -> int:
    """Apply pending migrations to PostgreSQL, and make streams, consumers and buckets on NATS as they ought to be.

    Any number of times, by any number of processes: what is done already is left alone.
    """
    here = place.here()
    with waiting("comparing" if check else "migrating"):
        rows = run_async(_pending(here) if check else _applied(here))
    write(rows, output, "nothing is pending" if check else "nothing to do: everything is as it should be")
    return 1 if check and rows else 0


async def _applied(here: "LocalSettings") -> list[Row]:
    from quotebus.provision import prepare
    from services.cacher.migrate import MigrationError

    # Both are looked for first: the services' own connection would wait for them for ever.
    async with postgres_of(here), nats_of(here):
        pass
    try:
        return [{"done": line} for line in await prepare(here.settings)]
    except MigrationError as error:
        raise CommandError("migration_failed", str(error)) from None


async def _pending(here: "LocalSettings") -> list[Row]:
    async with postgres_of(here):
        rows = await pending_migrations(here)
    async with nats_of(here) as qb:
        from services.fetcher.accounts import quotas
        from services.runtime.jetstream.provision import drift
        from services.runtime.jetstream.topology import topology

        found = await drift(qb.js, topology(here.settings, quotas(here.settings)))
        found += await _missing_sessions(here, qb)
    return [*({"pending": f"migration {name}"} for name in rows), *({"pending": line} for line in found)]


async def _missing_sessions(here: "LocalSettings", qb: "Client") -> list[str]:
    from nats.js.errors import NotFoundError

    from quotebus.provision import calendars_of
    from services.runtime.jobs.store import JobError
    from services.runtime.schedules.calendar_store import read_sessions

    try:
        wanted = await calendars_of(qb.nc, here.settings)
        there = await read_sessions(qb.js, wanted)
    except (JobError, NotFoundError):
        return []  # the buckets themselves are pending
    return [f"sessions of {code}: missing" for code in sorted(wanted - there.keys())]


async def pending_migrations(here: "LocalSettings") -> list[str]:
    """The names of the migrations that the settings' database has not seen."""
    from services.cacher.migrate import pending

    return await pending(here.settings.postgres.dsn.get_secret_value())
