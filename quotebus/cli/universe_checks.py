"""What `quotebus doctor` says of the universes whose symbols enabled jobs ask for."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from quotebus.cli.checks import Check

if TYPE_CHECKING:
    from quotebus.client import Client
    from quotebus.settings_here import Here


async def universe_checks(here: "Here", qb: "Client") -> AsyncIterator[Check]:
    """A line for each universe that an enabled job names; none if none does, or if the database does not answer."""
    from nats.js.errors import NotFoundError

    from services.fetcher.planning.universe import Universe, UniverseRefusedError, UniverseUnavailableError
    from services.runtime.jobs.store import JobError, open_job_bucket

    try:
        jobs = [job for job in await (await open_job_bucket(qb.nc)).all() if job.enabled and job.universe is not None]
    except (JobError, NotFoundError):
        return  # its own line says that the bucket is missing
    universe = Universe(here.settings.postgres.dsn.get_secret_value(), here.settings.universes)
    for name in sorted({job.universe for job in jobs if job.universe is not None}):
        asking = ", ".join(job.id for job in jobs if job.universe == name)
        try:
            count = len(await universe.of(name))
        except UniverseRefusedError as error:
            yield Check("fail", "universe", str(error), f"jobs that ask for it: {asking}")
        except UniverseUnavailableError as error:
            yield Check("warn", "universe", str(error), "its requests wait until it can be")
        else:
            do = f"fill it for {asking}: `quotebus symbols import FILE.csv --table watchlist`, or see [universes]"
            yield Check("ok", "universe", f"{name}: {count} symbols") if count else Check("warn", "universe", f"{name}: empty", do)
