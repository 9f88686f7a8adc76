"""What becomes of the slots of a job that fell due. No clock here."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.job import Job
from services.runtime.slots import Schedule

LONGEST_GRACE = timedelta(seconds=60)
# The longest catch-up window: a slot older than this is never asked. REFRESH remembers a day longer, so of every younger slot
# it is certain whether it was asked; of older ones it is not, and they are counted as nothing.
MEMORY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Due:
    """The newest slot that fell due. `missed`: slots before it that nobody asked. `late`: after an outage. `ask`: worth it."""

    slot: datetime
    missed: int
    late: bool
    ask: bool


def due(job: Job, schedule: Schedule, last: datetime | None, now: datetime) -> Due | None:
    """What fell due in (last, now]; none when nothing did. `last`: the slot that was asked last, if it is known."""
    after = since(job, last, now)
    slot = schedule.newest(after, now)
    if slot is None:
        return None
    grace = min(LONGEST_GRACE, (schedule.following(slot) - slot) / 2)
    window = max(grace, job.catch_up_window) if job.catch_up == "latest" else grace
    age = now - slot
    return Due(slot=slot, missed=schedule.count(after, slot) - 1, late=age > grace, ask=age <= window)


def since(job: Job, last: datetime | None, now: datetime) -> datetime:
    """From when on slots are the job's to ask: its last slot, its enabling, or as far back as anybody remembers."""
    known = [instant for instant in (last, job.enabled_at) if instant is not None]
    return max([*known, now - MEMORY]) if last is None else max(known)
