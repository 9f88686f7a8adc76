"""What the bucket `jobs` holds, read from its stream: everything, or only what was written since a revision."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import msgspec
from nats.js import JetStreamContext

from contracts.job import Job
from contracts.message import decode
from contracts.subjects import JOBS_BUCKET
from services.runtime.stored import stored

JOBS_STREAM = f"KV_{JOBS_BUCKET}"
JOBS_PREFIX = f"$KV.{JOBS_BUCKET}."
JOBS_WRITTEN = f"{JOBS_PREFIX}>"


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest value of one key. `body`: none when it was deleted."""

    key: str
    revision: int
    body: bytes | None
    written_at: datetime

    def job(self) -> Job:
        """The job that stands here; one without an `enabled_at` counts from when it was written.

        Raises:
            ValueError: there is none, or it is malformed; the text names the field.
        """
        try:
            job = decode(self.body or b"", Job)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from None
        if job.id != self.key:
            raise ValueError(f"id: {job.id!r} stands under the key {self.key!r}")
        return job if job.enabled_at else msgspec.structs.replace(job, enabled_at=self.written_at)


async def entries(js: JetStreamContext, since: int = 0) -> AsyncIterator[Entry]:
    """Every key whose newest value has a revision above `since`, deletions included, in order of revision.

    Raises:
        nats.errors.Error: the server did not answer, or the bucket is missing.
    """
    async for msg in stored(js, JOBS_STREAM, JOBS_WRITTEN, since + 1):
        gone = (msg.headers or {}).get("KV-Operation") is not None
        yield Entry(
            msg.subject.removeprefix(JOBS_PREFIX),
            msg.metadata.sequence.stream,
            None if gone else msg.data,
            msg.metadata.timestamp,
        )
