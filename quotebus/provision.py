"""Makes the servers fit the settings and the jobs: tables, streams, consumers, buckets, sessions."""

from nats.aio.client import Client

from services.cacher.migrate import migrate
from services.fetcher.accounts import quotas
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.jobs.store import open_job_bucket
from services.runtime.settings import Settings
from services.scheduler.renew_sessions import SessionsError, renew


async def prepare(settings: Settings) -> list[str]:
    """Apply pending migrations and provision NATS; a line for each change. Any number of times, by any number of processes.

    Raises:
        MigrationError: a migration failed; nothing of it stays.
    """
    applied = await migrate(settings.postgres.dsn.get_secret_value())
    async with connect(settings.nats, "provisioner") as bus:
        changed = await provision(bus.js, topology(settings, quotas(settings)))
        changed += await _sessions(bus, settings)
    return [*(f"applied {name}" for name in applied), *changed]


async def calendars_of(nc: Client, settings: Settings) -> set[str]:
    """The exchanges by whose sessions a job goes, of the settings or in the bucket."""
    jobs = [*settings.jobs(), *await (await open_job_bucket(nc)).all()]
    return {job.calendar for job in jobs if job.calendar is not None}


async def _sessions(bus: Bus, settings: Settings) -> list[str]:
    try:
        return await renew(bus.js, await calendars_of(bus.nc, settings))
    except SessionsError as error:
        # The jobs of these exchanges wait, and all else works.
        return [str(error)]
