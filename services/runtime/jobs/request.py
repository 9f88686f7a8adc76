"""Refresh request of a job, and its date range."""

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from contracts.job import Job
from contracts.refresh_request import RefreshRequest

_LONGEST_S = 366 * 86400.0


class DateRange(NamedTuple):
    """UTC days, `start` included, `end` not; both None: the latest data."""

    start: date | None = None
    end: date | None = None


def date_range(job: Job, at: datetime, missed_since: datetime | None = None) -> DateRange:
    """Date range of a request at this instant: the job's lookback days and those since the first missed slot; else the latest."""
    starts = []
    # East of London an exchange's day begins before the UTC day of that date does.
    today = max(at.astimezone(UTC).date(), at.astimezone(ZoneInfo(job.timezone)).date())
    if job.lookback_days is not None:
        starts.append(today - timedelta(days=job.lookback_days))
    if missed_since is not None and job.dataset == "bars":
        starts.append(missed_since.astimezone(UTC).date())
    return DateRange(min(starts), today + timedelta(days=1)) if starts else DateRange()


def check_durations(job: Job) -> None:
    """Refuse an instant so far away that no clock and no planner could work with it.

    Raises:
        ValueError: one line that names the job and the field.
    """
    for name in ("expires_after_s", "max_age_s"):
        seconds = getattr(job, name)
        if seconds is not None and seconds > _LONGEST_S:
            raise ValueError(f"job {job.id}: {name}: {seconds:g}; give at most {_LONGEST_S:.0f}, a year")


def request_for_job(job: Job, days: DateRange, expires_at: datetime) -> RefreshRequest:
    """Refresh request of the job for these days of its symbols."""
    return RefreshRequest(
        symbols=job.symbols,
        universe=job.universe,
        max_symbols=job.max_symbols,
        dataset=job.dataset,
        timeframe=job.timeframe,
        start=days.start,
        end=days.end,
        provider=job.provider,
        calendar=job.calendar,
        max_age_s=job.max_age_s,
        job=job.id,
        expires_at=expires_at,
    )
