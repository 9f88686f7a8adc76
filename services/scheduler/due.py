"""What becomes of the slots of a job that fell due. No clock here."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from contracts.job import Job
from services.runtime.slots import Schedule

LONGEST_GRACE = timedelta(seconds=60)
# The longest catch-up window: a slot older than this is never asked. REFRESH remembers a day longer, so of every younger slot
# it is certain whether it was asked; of older ones it is not, and they are counted as nothing.
MEMORY = timedelta(days=7)
_TICK = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """The newest slot that fell due. `missed`: slots before it that nobody asked. `late`: after an outage. `ask`: worth it.

    `at`: the slot and its jitter. `since`: the slot asked before, or when the job's slots began, as far back as it catches up.
    """

    slot: datetime
    missed: int
    late: bool
    ask: bool
    at: datetime = field(default=_EPOCH, compare=False)
    since: datetime = field(default=_EPOCH, compare=False)


def due(job: Job, schedule: Schedule, last: datetime | None, now: datetime) -> Due | None:
    """What fell due in (last, now]; none when nothing did. `last`: the slot that was asked last, if it is known."""
    after = since(job, last, now)
    slot = schedule.newest(after, now)
    if slot is not None and due_at(job, schedule, slot) > now:
        slot = schedule.newest(after, slot - _TICK)
    if slot is None:
        return None
    grace = min(LONGEST_GRACE, _gap(schedule, slot) / 2)
    window = grace if job.catch_up == "none" else max(grace, job.catch_up_window)
    at = due_at(job, schedule, slot)
    missed = schedule.count(after, slot) - 1
    return Due(slot, missed, late=now - at > grace, ask=now - at <= window, at=at, since=max(after, now - window))


def next_look(job: Job, schedule: Schedule, last: datetime | None, now: datetime) -> datetime:
    """When a slot falls due next, or the newest one will, which waits for its jitter.

    Raises:
        ValueError: no such instant can be known.
    """
    after = since(job, last, now)
    slot = schedule.newest(after, now)
    if slot is not None and (at := due_at(job, schedule, slot)) > now:
        return at
    return due_at(job, schedule, schedule.following(max(now, after)))


def due_at(job: Job, schedule: Schedule, slot: datetime) -> datetime:
    """When the slot is to be asked: its instant, and the job's jitter, which never reaches the slot that follows."""
    if not job.jitter_s:
        return slot
    share = int.from_bytes(blake2b(f"{job.id}@{slot.timestamp()}".encode(), digest_size=7).digest()) / 2**56
    return slot + share * min(timedelta(seconds=job.jitter_s), _gap(schedule, slot))


def since(job: Job, last: datetime | None, now: datetime) -> datetime:
    """From when on slots are the job's to ask: its last slot, its enabling, or as far back as anybody remembers."""
    known = [instant for instant in (last, job.enabled_at) if instant is not None]
    return max([*known, now - MEMORY]) if last is None else max(known)


def _gap(schedule: Schedule, slot: datetime) -> timedelta:
    """From the slot to the next one; a long time when none is known."""
    try:
        return schedule.following(slot) - slot
    except ValueError:
        return MEMORY
