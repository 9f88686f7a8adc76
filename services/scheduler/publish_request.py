"""Publishes one request per slot by compare-and-set: the server refuses it if the job has a newer one than we know."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from contracts import subjects
from contracts.job import Job
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from services.runtime.bus import Bus
from services.runtime.jobs.request import date_range, request_for_job
from services.scheduler.due import Due

EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
# The second one is of servers that refuse by a fixed text.
WRONG_LAST_SEQUENCE = (10071, 10164)
_PUBLISH_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class LastRequest:
    """The newest request of a job on REFRESH: its sequence (0: there is none) and its slot."""

    sequence: int = 0
    slot: datetime | None = None


async def last_request(js: JetStreamContext, job: str) -> LastRequest:
    """Load the newest request of the job, of any lane and any clock."""
    try:
        message = await js.get_last_msg(subjects.REFRESH, subjects.job_requests(job))
    except NotFoundError:
        return LastRequest()
    try:
        slot = decode(message.data or b"", RefreshRequest).slot_at
    except msgspec.MsgspecError:
        slot = None
    # A person may have published under the job's name: whatever was due by then was served by that.
    slot = slot or message.time
    return LastRequest(message.seq or 0, slot.astimezone(UTC) if slot else None)


async def publish_request(bus: Bus, job: Job, due: Due, last: LastRequest, now: datetime) -> LastRequest | None:
    """Publish the request for the slot; None when the job has a newer request than `last`.

    Raises:
        APIError: REFRESH refused it for another reason, such as being full.
        nats.errors.Error: no answer; it may or may not be stored, so look before asking again.
    """
    request = request_for(job, due, now)
    try:
        ack = await bus.publish(
            subjects.refresh_request(job.lane, job.id),
            request,
            message_id=request.request_id,
            headers={EXPECTED_SEQUENCE: str(last.sequence), EXPECTED_SUBJECT: subjects.job_requests(job.id)},
            timeout_s=_PUBLISH_TIMEOUT_S,
        )
    except APIError as error:
        if error.err_code in WRONG_LAST_SEQUENCE:
            return None
        raise
    # A duplicate is of another clock, or of a publish of ours whose answer was lost: the stream knows which slot it was.
    return None if ack.duplicate else LastRequest(ack.seq, due.slot)


def request_for(job: Job, due: Due, now: datetime) -> RefreshRequest:
    """Build the request of this slot. After an outage its tasks live from now on, else they would be stillborn."""
    missed_since = due.window_start if due.missed and job.catch_up == "all" else None
    expires_at = (now if due.late else due.slot) + timedelta(seconds=job.expires_after_s)
    return msgspec.structs.replace(
        request_for_job(job, date_range(job, due.slot, missed_since), expires_at),
        wanted_at=due.slot,
        request_id=f"{job.id}@{due.slot.astimezone(UTC).isoformat().replace('+00:00', 'Z')}",
        slot_at=due.slot,
        missed_slots=due.missed,
        late=due.late or (due.missed > 0 and job.catch_up != "none"),
    )
