"""How a job begins to tick: its schedule, with what is known of sessions."""

from datetime import timedelta

from contracts.job import Job
from services.runtime.schedules import schedule_of
from services.runtime.sessions import Calendars
from services.scheduler.chained import Chained
from services.scheduler.clock import Clock


def begin(clock: Clock, job: Job, calendars: Calendars) -> None:
    """Let the clock tick for the job from now on; without the sessions it needs it waits for them.

    Raises:
        ValueError: its schedule is none; the text names the field.
    """
    chained = None
    if job.after is not None:
        every = timedelta(seconds=job.at_least_every_s) if job.at_least_every_s else None
        chained = Chained(job.after, job.enabled_at or clock.now(), every)
    clock.start(job, schedule_of(job, calendars, chained), chained)
