"""What `quotebus doctor` says of the sessions that jobs go by."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quotebus.cli.checks import Check

if TYPE_CHECKING:
    from quotebus.client import Client
    from services.runtime.schedules.sessions import Calendar

_FEW_DAYS = 30


async def session_checks(qb: "Client") -> AsyncIterator[Check]:
    """A line for each exchange that a job names; none if none does."""
    from nats.js.errors import NotFoundError

    from services.runtime.jobs.store import JobError, open_job_bucket

    try:
        bucket = await open_job_bucket(qb.nc)
        jobs = [job for job in await bucket.all() if job.calendar is not None]
        calendars = await bucket.calendars(jobs)
    except (JobError, NotFoundError):
        return  # its own line says that the bucket is missing
    for code in sorted({job.calendar for job in jobs if job.calendar is not None}):
        waiting = [job.id for job in jobs if job.calendar == code]
        yield _known(calendars[code]) if code in calendars else _missing(code, waiting)


def _missing(code: str, jobs: list[str]) -> Check:
    do = "run `quotebus migrate`; a running scheduler does so by itself, and its log says why it could not"
    return Check("fail", "sessions", f"{code}: not known, so {', '.join(jobs)} wait", do)


def _known(calendar: "Calendar") -> Check:
    left = calendar.ahead(datetime.now(UTC).date())
    if left > _FEW_DAYS:
        return Check("ok", "sessions", f"{calendar.code}: known until {calendar.last}")
    state = f"end in {left} days" if left >= 0 else f"ended {-left} days ago: every weekday counts, and jobs of `session` wait"
    do = "run `quotebus migrate`; if that changes nothing, update exchange_calendars, which does not know more"
    return Check("warn", "sessions", f"{calendar.code}: known until {calendar.last}, they {state}", do)
