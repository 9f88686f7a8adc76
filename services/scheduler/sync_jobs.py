"""Makes, changes and removes the jobs of the bucket that come from the settings, and touches no person's job."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import structlog
from nats.aio.client import Client
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from contracts.job import TIMING_FIELDS, Job
from contracts.message import encode
from contracts.subjects import JOBS_BUCKET
from services.runtime.follow import BucketEntry
from services.runtime.jobs.store import job_of, read_job_entries
from services.runtime.settings.model import PAUSED_BY_SETTINGS, WAITS_FOR_PROVIDER

# Not part of a job's definition: a restart must not undo what a person did meanwhile.
RUNTIME_FIELDS = ("enabled", "paused_reason", "enabled_at")

log = structlog.get_logger()


async def sync_settings_jobs(nc: Client, wanted: Sequence[Job], now: datetime) -> None:
    """Make the bucket's jobs of origin `settings` those that are `wanted`. Several clocks may do so at once.

    Raises:
        nats.errors.Error: the server did not answer; run it again.
    """
    bucket = await nc.jetstream(timeout=5).key_value(JOBS_BUCKET)
    ids = {job.id for job in wanted}
    # Not of thousands of people's jobs, which are none of its business: their bodies would be what a clock's memory peaks by.
    there = {entry.key: entry async for entry in read_job_entries(nc) if entry.key in ids or _is_of_settings(entry)}
    for job in wanted:
        await _put(bucket, job, there.get(job.id), now)
    await _remove_others(bucket, ids, there)


async def _put(bucket: KeyValue, job: Job, entry: BucketEntry | None, now: datetime) -> None:
    try:
        if entry is None or entry.value is None:
            await bucket.create(job.id, encode(_new_job(job, now)))
            log.info("job_made", job=job.id, origin="settings")
            return
        there = _parsed(entry)
        if there is None or there.origin == "person":
            whose = "a person's" if there else "malformed"
            log.warning("job_not_synced", job=job.id, reason=f"the one in the bucket is {whose}; rename one or delete that one")
            return
        new = _merged(job, there, now)
        if new != there:
            await bucket.update(job.id, encode(new), last=entry.revision)
            log.info("job_changed", job=job.id, origin="settings")
    except KeyWrongLastSequenceError:
        # Another clock seeds the same file, or a person was quicker; the next start looks again.
        log.info("job_changed_by_another", job=job.id)


async def _remove_others(bucket: KeyValue, wanted: set[str], there: Mapping[str, BucketEntry]) -> None:
    for entry in there.values():
        job = _parsed(entry)
        if job is None or job.origin != "settings" or job.id in wanted:
            continue
        try:
            await bucket.delete(job.id, last=entry.revision)
            log.info("job_removed", job=job.id, reason="it is no longer in the settings")
        except KeyWrongLastSequenceError:
            log.info("job_changed_by_another", job=job.id)


def _new_job(job: Job, now: datetime) -> Job:
    return msgspec.structs.replace(job, enabled_at=now, paused_reason=None if job.enabled else _pause_reason(job))


def _pause_reason(job: Job) -> str:
    return job.paused_reason or PAUSED_BY_SETTINGS


def _merged(job: Job, there: Job, now: datetime) -> Job:
    """The settings' definition with the runtime fields of the job in the bucket; new times count from now."""
    fields: dict[str, object] = {name: getattr(there, name) for name in RUNTIME_FIELDS}
    if not job.enabled:
        fields |= {"enabled": False, "paused_reason": _pause_reason(job)}
    elif there.paused_reason in (PAUSED_BY_SETTINGS, WAITS_FOR_PROVIDER):
        fields |= {"enabled": True, "paused_reason": None, "enabled_at": now}
    if _times(job) != _times(there):
        fields["enabled_at"] = now
    return msgspec.structs.replace(job, **fields)


def _times(job: Job) -> tuple[object, ...]:
    return tuple(getattr(job, name) for name in TIMING_FIELDS)


def _is_of_settings(entry: BucketEntry) -> bool:
    job = _parsed(entry)
    return job is not None and job.origin == "settings"


def _parsed(entry: BucketEntry) -> Job | None:
    try:
        return job_of(entry)
    except ValueError:
        return None
