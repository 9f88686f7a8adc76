"""Publishes which slots got no request of their own, each once: for the history and for notifications."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import msgspec
import structlog
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from contracts import subjects
from contracts.message import decode
from contracts.run_events import MAX_SLOTS, RunMissed
from services.runtime.bus import Bus
from services.runtime.schedules.clock_times import Schedule
from services.scheduler.due import Due
from services.scheduler.publish_request import EXPECTED_SEQUENCE, EXPECTED_SUBJECT, WRONG_LAST_SEQUENCE
from services.scheduler.scheduled_job import ScheduledJob

_TICK = timedelta(microseconds=1)
_PUBLISH_TIMEOUT_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Missed:
    """The slots later than `after` and not later than `until`, and why they got no request."""

    after: datetime
    until: datetime
    reason: Literal["too_late", "caught_up"]
    found_at: datetime


def missed_slots_before(what: Due, after: datetime, now: datetime) -> Missed:
    """The slots that got no request when this fell due: those before it, and itself when it is not published."""
    return Missed(after, what.slot - _TICK, "caught_up", now) if what.publish else Missed(after, what.slot, "too_late", now)


async def publish_missed_best_effort(bus: Bus, scheduled: ScheduledJob, missed: Missed) -> None:
    """Publish them after the request is stored, so that no request waits for it or fails of it."""
    job = scheduled.job.id
    try:
        await publish_missed(bus, job, scheduled.schedule, missed)
    except NatsError as error:
        log.warning("missed_slots_failed", job=job, error=f"{type(error).__name__}: {error}")


def missed_slots(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    """The newest MAX_SLOTS slots later than `after` and not later than `until`, rising."""
    found: list[datetime] = []
    while len(found) < MAX_SLOTS and (slot := schedule.last_until(after, until)) is not None:
        found.append(slot)
        until = slot - _TICK
    return found[::-1]


async def publish_missed(bus: Bus, job: str, schedule: Schedule, missed: Missed) -> bool:
    """Publish those of these slots that no clock has published yet; False when there are none, or another clock was quicker.

    Raises:
        nats.errors.Error: no answer; it may or may not be stored.
    """
    sequence, published_until = await _last_published(bus.js, job)
    after = max(missed.after, published_until or missed.after)
    slots = missed_slots(schedule, after, missed.until)
    if not slots:
        return False
    count = schedule.count(after, missed.until)
    event = RunMissed(job=job, reason=missed.reason, missed=count, slots=slots, at=missed.found_at)
    subject = subjects.run("missed", job)
    try:
        await bus.publish(
            subject,
            event,
            message_id=f"missed-{job}-{slots[-1].isoformat()}",
            headers={EXPECTED_SEQUENCE: str(sequence), EXPECTED_SUBJECT: subject},
            timeout_s=_PUBLISH_TIMEOUT_S,
        )
    except APIError as error:
        if error.err_code in WRONG_LAST_SEQUENCE:
            return False
        raise
    return True


async def _last_published(js: JetStreamContext, job: str) -> tuple[int, datetime | None]:
    """Load the sequence of the newest event about missed slots of the job (0: there is none), and its last slot."""
    try:
        message = await js.get_last_msg(subjects.RUNS, subjects.run("missed", job))
    except NotFoundError:
        return 0, None
    try:
        slots = decode(message.data or b"", RunMissed).slots
    except msgspec.MsgspecError:
        slots = []
    return message.seq or 0, max(slots, default=None)
