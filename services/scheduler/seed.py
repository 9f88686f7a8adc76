"""The settings' jobs in the bucket: made, changed and removed with the file, and no person's job touched."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import structlog
from nats.js import JetStreamContext
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from contracts.job import TIMES, Job
from contracts.message import encode
from contracts.subjects import JOBS_BUCKET
from services.runtime.job_entries import Entry, entries
from services.runtime.settings.model import PAUSED_BY_SETTINGS, WAITS_FOR_PROVIDER

# These are of the job's life, not of its definition: a restart must not undo what a person did meanwhile.
_LIFE = ("enabled", "paused_reason", "enabled_at")

log = structlog.get_logger()


async def seed(js: JetStreamContext, wanted: Sequence[Job], now: datetime) -> None:
    """Make the bucket's jobs of origin `settings` those that are `wanted`. Several clocks may do so at once.

    Raises:
        nats.errors.Error: the server did not answer; run it again.
    """
    bucket = await js.key_value(JOBS_BUCKET)
    there = {entry.key: entry async for entry in entries(js)}
    for job in wanted:
        await _put(bucket, job, there.get(job.id), now)
    await _remove_others(bucket, {job.id for job in wanted}, there)


async def _put(bucket: KeyValue, job: Job, entry: Entry | None, now: datetime) -> None:
    try:
        if entry is None or entry.body is None:
            await bucket.create(job.id, encode(_first(job, now)))
            log.info("job_made", job=job.id, origin="settings")
            return
        there = _parsed(entry)
        if there is None or there.origin == "person":
            whose = "a person's" if there else "malformed"
            log.warning("job_not_seeded", job=job.id, reason=f"the one in the bucket is {whose}; rename one or delete that one")
            return
        new = _changed(job, there, now)
        if new != there:
            await bucket.update(job.id, encode(new), last=entry.revision)
            log.info("job_changed", job=job.id, origin="settings")
    except KeyWrongLastSequenceError:
        # Another clock seeds the same file, or a person was quicker; the next start looks again.
        log.info("job_changed_by_another", job=job.id)


async def _remove_others(bucket: KeyValue, wanted: set[str], there: Mapping[str, Entry]) -> None:
    for entry in there.values():
        job = _parsed(entry)
        if job is None or job.origin != "settings" or job.id in wanted:
            continue
        try:
            await bucket.delete(job.id, last=entry.revision)
            log.info("job_removed", job=job.id, reason="it is no longer in the settings")
        except KeyWrongLastSequenceError:
            log.info("job_changed_by_another", job=job.id)


def _first(job: Job, now: datetime) -> Job:
    return msgspec.structs.replace(job, enabled_at=now, paused_reason=None if job.enabled else _why_paused(job))


def _why_paused(job: Job) -> str:
    return job.paused_reason or PAUSED_BY_SETTINGS


def _changed(job: Job, there: Job, now: datetime) -> Job:
    """The settings' definition with the life that the job in the bucket has; new times count from now."""
    life: dict[str, object] = {name: getattr(there, name) for name in _LIFE}
    if not job.enabled:
        life |= {"enabled": False, "paused_reason": _why_paused(job)}
    elif there.paused_reason in (PAUSED_BY_SETTINGS, WAITS_FOR_PROVIDER):
        life |= {"enabled": True, "paused_reason": None, "enabled_at": now}
    if _times(job) != _times(there):
        life["enabled_at"] = now
    return msgspec.structs.replace(job, **life)


def _times(job: Job) -> tuple[object, ...]:
    return tuple(getattr(job, name) for name in TIMES)


def _parsed(entry: Entry) -> Job | None:
    try:
        return entry.job()
    except ValueError:
        return None
