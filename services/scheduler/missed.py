"""Slots that get no request of their own, told once each: for the history, and for whoever wants to be notified."""

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
from services.runtime.slots import Schedule
from services.scheduler.ask import EXPECTED_SEQUENCE, EXPECTED_SUBJECT, SOMEBODY_ELSE
from services.scheduler.due import Due
from services.scheduler.running import Running

_TICK = timedelta(microseconds=1)
_PATIENCE_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Missed:
    """The slots later than `after` and not later than `until`, and why they got no request."""

    after: datetime
    until: datetime
    reason: Literal["too_late", "caught_up"]
    found_at: datetime


def missed_before(what: Due, after: datetime, now: datetime) -> Missed:
    """What got no request when this fell due: the slots before it, and itself when it is not asked for."""
    return Missed(after, what.slot - _TICK, "caught_up", now) if what.ask else Missed(after, what.slot, "too_late", now)


async def report_missed(bus: Bus, running: Running, missed: Missed) -> None:
    """Tell of them, once the request is stored: none waits for that, and none fails of it."""
    job = running.job.id
    try:
        await tell_missed(bus, job, running.schedule, missed)
    except NatsError as error:
        log.warning("missed_slots_untold", job=job, error=f"{type(error).__name__}: {error}")


def missed_slots(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    """The newest MAX_SLOTS slots later than `after` and not later than `until`, rising."""
    found: list[datetime] = []
    while len(found) < MAX_SLOTS and (slot := schedule.newest(after, until)) is not None:
        found.append(slot)
        until = slot - _TICK
    return found[::-1]


async def tell_missed(bus: Bus, job: str, schedule: Schedule, missed: Missed) -> bool:
    """Tell of those of these slots that no clock has told of yet; False when there are none, or another clock was quicker.

    Raises:
        nats.errors.Error: no answer; it may or may not be stored.
    """
    sequence, told_until = await _last_told(bus.js, job)
    after = max(missed.after, told_until or missed.after)
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
            timeout_s=_PATIENCE_S,
        )
    except APIError as error:
        if error.err_code in SOMEBODY_ELSE:
            return False
        raise
    return True


async def _last_told(js: JetStreamContext, job: str) -> tuple[int, datetime | None]:
    """The newest message about missed slots of the job (0: there is none), and its last slot."""
    try:
        message = await js.get_last_msg(subjects.RUNS, subjects.run("missed", job))
    except NotFoundError:
        return 0, None
    try:
        slots = decode(message.data or b"", RunMissed).slots
    except msgspec.MsgspecError:
        slots = []
    return message.seq or 0, max(slots, default=None)
