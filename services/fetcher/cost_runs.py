"""How often jobs run, by their schedules and by each other. Pure."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from contracts.job import Job
from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.clock_times import Never
from services.runtime.schedules.sessions import Calendars

_HOUR_S = 3600.0


def runs_by_hour(jobs: Sequence[Job], calendars: Calendars, start: datetime, hours: int) -> dict[str, Sequence[int] | str]:
    """How often each job runs in each of so many hours, or why nobody knows.

    One that follows another runs as often as that, or as often as it has to.
    """
    by_id = {job.id: job for job in jobs}
    found: dict[str, Sequence[int] | str] = {}

    def runs(job: Job) -> Sequence[int] | str:
        if job.id not in found:
            found[job.id] = "it follows itself"
            found[job.id] = follows(job) if job.after else falls_due(job)
        return found[job.id]

    def falls_due(job: Job) -> Sequence[int] | str:
        try:
            schedule = schedule_of(job, calendars)
        except ValueError as error:
            return str(error)
        if isinstance(schedule, Never):
            return schedule.why
        edges = [start + timedelta(hours=hour) for hour in range(hours + 1)]
        # A slot counts for the hour that it begins.
        just_before = [edge - timedelta(microseconds=1) for edge in edges]
        return [schedule.count(since, until) for since, until in pairwise(just_before)]

    def follows(job: Job) -> Sequence[int] | str:
        leader = by_id.get(job.after or "")
        led = runs(leader) if leader else [0] * hours
        if isinstance(led, str):
            return led
        least = _HOUR_S / job.at_least_every_s if job.at_least_every_s else 0.0
        return [max(count, math.ceil(least * (hour + 1)) - math.ceil(least * hour)) for hour, count in enumerate(led)]

    for job in jobs:
        runs(job)
    return found
