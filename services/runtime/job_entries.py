"""The jobs that the bucket `jobs` holds, and how an entry of it becomes a job."""

from collections.abc import AsyncIterator

import msgspec
from nats.aio.client import Client
from nats.js.api import DeliverPolicy

from contracts.job import Job
from contracts.message import decode
from contracts.subjects import JOBS_BUCKET
from services.runtime.follow import BucketEntry, bucket_entry, read_stream

JOBS_STREAM = f"KV_{JOBS_BUCKET}"


async def read_job_entries(nc: Client) -> AsyncIterator[BucketEntry]:
    """Read the newest value of every key, in order of revision; deleted ones have none.

    Raises:
        nats.errors.Error: the server did not answer, or the bucket is missing.
    """
    async for message in read_stream(nc, JOBS_STREAM, f"$KV.{JOBS_BUCKET}.>", DeliverPolicy.LAST_PER_SUBJECT):
        yield bucket_entry(message)


def job_of(entry: BucketEntry) -> Job:
    """The job of an entry; one without an `enabled_at` counts from when it was written.

    Raises:
        ValueError: there is none, or it is malformed; the text names the field.
    """
    try:
        job = decode(entry.value or b"", Job)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    if job.id != entry.key:
        raise ValueError(f"id: {job.id!r} stands under the key {entry.key!r}")
    return job if job.enabled_at else msgspec.structs.replace(job, enabled_at=entry.written_at)
