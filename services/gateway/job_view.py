"""A job as people are shown it: its own fields, its revision, and when it falls due next."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from contracts.job import Job
from services.runtime.job_bucket import JobBucket
from services.runtime.schedules import schedule_of
from services.runtime.sessions import Calendars


async def job_views(bucket: JobBucket, jobs: Sequence[tuple[Job, int]]) -> list[dict[str, Any]]:
    """These jobs, each given with its revision. What they cost nobody has worked out here."""
    now = datetime.now(UTC)
    calendars = await bucket.calendars(job for job, _ in jobs)
    return [
        {
            **msgspec.to_builtins(job),
            "revision": revision,
            "next_at": next_slot(job, calendars, now) if job.enabled else None,
            "cost": None,
            "too_small": [],
        }
        for job, revision in jobs
    ]


def next_slot(job: Job, calendars: Calendars, now: datetime) -> datetime | None:
    """Its next slot; none if it follows another job, if its sessions are not known, or if no slot will come."""
    try:
        return schedule_of(job, calendars).following(now)
    except ValueError:
        return None
