"""A job as one row: for a person to read, and for programs."""

from datetime import datetime
from typing import TYPE_CHECKING

from quotebus.cli.output import Row

if TYPE_CHECKING:
    from contracts.job import Job
    from services.runtime.schedules.sessions import Calendars

_NAMES_SHOWN = 6
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def job_fields(job: "Job") -> Row:
    """Every field, as the contract has it."""
    import msgspec

    return msgspec.structs.asdict(job)


def job_row(job: "Job", calendars: "Calendars", now: datetime) -> Row:
    """When it runs, what it asks for, and when next."""
    return {
        "job": job.id,
        "when": when(job),
        "next": following(job, calendars, now),
        "what": _what(job),
        "symbols": _symbols(job),
        "provider": job.provider or "any",
        "lane": job.lane,
        "state": "on" if job.enabled else f"paused: {job.paused_reason or 'no reason given'}",
        "from": job.origin,
    }


def when(job: "Job") -> str:
    """Its schedule in words."""
    if job.every_s is not None:
        parts = [f"every {_span(job.every_s)}"]
    elif job.session is not None:
        parts = [job.session]
    elif job.after is not None:
        parts = [f"after {job.after}"]
    else:
        parts = [job.cron or f"at {', '.join(job.at)}"]
    if job.at_least_every_s is not None:
        parts.append(f"at least every {_span(job.at_least_every_s)}")
    if job.days:
        parts.append(f"on {' '.join(job.days)}")
    if job.calendar is not None:
        parts.append(job.calendar)
    if job.timezone != "UTC":
        parts.append(job.timezone)
    if job.jitter_s:
        parts.append(f"up to {_span(job.jitter_s)} later")
    return ", ".join(parts)


def following(job: "Job", calendars: "Calendars", now: datetime) -> datetime | str | None:
    """Its next slot; of one that follows another none is known."""
    from services.runtime.schedules.build import schedule_of

    if not job.enabled or job.after is not None:
        return None
    try:
        return schedule_of(job, calendars).following(now).replace(microsecond=0)
    except ValueError as error:
        return f"never: {error}"


def _what(job: "Job") -> str:
    past = f" {job.lookback_days} days" if job.lookback_days else ""
    return f"{job.dataset} {job.timeframe or ''}".strip() + past


def _symbols(job: "Job") -> str:
    most = f" (at most {job.max_symbols})" if job.max_symbols else ""
    if job.universe:
        return job.universe + most
    more = len(job.symbols) - _NAMES_SHOWN
    return " ".join(job.symbols[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "") + most


def _span(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size and seconds % size == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"
