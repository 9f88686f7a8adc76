"""What the bucket `jobs` holds, read from its stream: everything, or only what was written since a revision."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import msgspec
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from contracts.job import Job
from contracts.message import decode
from contracts.subjects import JOBS_BUCKET

JOBS_STREAM = f"KV_{JOBS_BUCKET}"
JOBS_PREFIX = f"$KV.{JOBS_BUCKET}."
JOBS_WRITTEN = f"{JOBS_PREFIX}>"
_BATCH = 500


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
    sub = await js.pull_subscribe(
        JOBS_WRITTEN,
        stream=JOBS_STREAM,
        config=ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=since + 1,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            inactive_threshold=30.0,
        ),
    )
    try:
        left = (await sub.consumer_info()).num_pending or 0
        while left:
            for msg in await sub.fetch(min(left, _BATCH), timeout=5):
                left = msg.metadata.num_pending
                gone = (msg.headers or {}).get("KV-Operation") is not None
                yield Entry(
                    msg.subject.removeprefix(JOBS_PREFIX),
                    msg.metadata.sequence.stream,
                    None if gone else msg.data,
                    msg.metadata.timestamp,
                )
    finally:
        await sub.unsubscribe()
