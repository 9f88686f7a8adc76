"""Decides what becomes of the slots of a job that fell due: pure functions, no clock here."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from contracts.job import Job
from services.runtime.schedules.clock_times import Schedule

MAX_ON_TIME_DELAY = timedelta(seconds=60)
# The longest catch-up window: no request is published for an older slot. REFRESH keeps requests a day longer, so of every younger
# slot it is certain whether it has one; of older ones it is not, and they are counted as nothing.
STREAM_RETENTION = timedelta(days=7)
_TICK = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """The newest slot that fell due. `missed`: slots before it without a request. `late`: after an outage.

    `publish`: it is worth a request. `at`: the slot and its jitter. `window_start`: the slot published before, or when the job's
    slots began, as far back as it catches up.
    """

    slot: datetime
    missed: int
    late: bool
    publish: bool
    at: datetime = field(default=_EPOCH, compare=False)
    window_start: datetime = field(default=_EPOCH, compare=False)


def due(job: Job, schedule: Schedule, last: datetime | None, now: datetime) -> Due | None:
    """Find what fell due in (last, now]; None when nothing did. `last`: the slot that was published last, if it is known."""
    after = slots_start(job, last, now)
    slot = schedule.last_until(after, now)
    if slot is not None and due_at(job, schedule, slot) > now:
        slot = schedule.last_until(after, slot - _TICK)
    if slot is None:
        return None
    grace = min(MAX_ON_TIME_DELAY, _gap(schedule, slot) / 2)
    window = grace if job.catch_up == "none" else max(grace, job.catch_up_window)
    at = due_at(job, schedule, slot)
    missed = schedule.count(after, slot) - 1
    return Due(slot, missed, late=now - at > grace, publish=now - at <= window, at=at, window_start=max(after, now - window))


def next_wakeup(job: Job, schedule: Schedule, last: datetime | None, now: datetime) -> datetime:
    """Give the instant at which a slot falls due next, or at which the newest one does, which waits for its jitter.

    Raises:
        ValueError: no such instant can be known.
    """
    after = slots_start(job, last, now)
    slot = schedule.last_until(after, now)
    if slot is not None and (at := due_at(job, schedule, slot)) > now:
        return at
    return due_at(job, schedule, schedule.next_after(max(now, after)))


def due_at(job: Job, schedule: Schedule, slot: datetime) -> datetime:
    """Give the instant at which the slot is published: its own and the job's jitter, which never reaches the slot that follows."""
    if not job.jitter_s:
        return slot
    share = int.from_bytes(blake2b(f"{job.id}@{slot.timestamp()}".encode(), digest_size=7).digest()) / 2**56
    return slot + share * min(timedelta(seconds=job.jitter_s), _gap(schedule, slot))


def slots_start(job: Job, last: datetime | None, now: datetime) -> datetime:
    """Start of the interval in which slots count: the last published slot or `enabled_at`, at most STREAM_RETENTION ago."""
    known = [instant for instant in (last, job.enabled_at) if instant is not None]
    return max([*known, now - STREAM_RETENTION]) if last is None else max(known)


def _gap(schedule: Schedule, slot: datetime) -> timedelta:
    """The time from the slot to the next one; a long one when none is known."""
    try:
        return schedule.next_after(slot) - slot
    except ValueError:
        return STREAM_RETENTION
