"""Makes the servers fit the settings: tables, streams, consumers, buckets."""

from services.cacher.migrate import migrate
from services.fetcher.accounts import quotas
from services.runtime.bus import connect
from services.runtime.provision import provision
from services.runtime.settings import Settings
from services.runtime.topology import topology


async def prepare(settings: Settings) -> list[str]:
    """Apply pending migrations and provision NATS; a line for each change. Any number of times, by any number of processes.

    Raises:
        MigrationError: a migration failed; nothing of it stays.
    """
    applied = await migrate(settings.postgres.dsn.get_secret_value())
    async with connect(settings.nats, "provisioner") as bus:
        changed = await provision(bus.js, topology(settings, quotas(settings)))
    return [*(f"applied {name}" for name in applied), *changed]
