"""Job store: reads and writes the KV bucket of jobs by compare-and-set."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import msgspec
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy
from nats.js.errors import InvalidKeyError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from contracts.job import SCHEDULE_FIELDS, TIMING_FIELDS, Job, check_chain
from contracts.message import decode, encode
from contracts.refresh_request import RefreshRequest
from contracts.subjects import JOBS_BUCKET
from services.runtime.follow import BucketEntry, bucket_entry, read_stream
from services.runtime.jobs.request import check_durations, date_range, request_for_job
from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.calendar_store import read_calendars
from services.runtime.schedules.sessions import Calendars

JOBS_STREAM = f"KV_{JOBS_BUCKET}"

# What a change to another kind of schedule ends, besides that of the job's own kind.
_OF_ONE_KIND = ("at_least_every_s", "dst_gap", "dst_fold")


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


class JobError(Exception):
    """The jobs cannot be read or changed so. `kind` is for programs: not_found, exists, refused, conflict, bad_request, …"""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class JobBucket:
    """Every job that there is."""

    def __init__(self, nc: Client, bucket: KeyValue) -> None:
        self._nc = nc
        self._bucket = bucket

    async def all(self) -> list[Job]:
        """Every well-formed job by id. A malformed one is left out: the scheduler reports it."""
        return [job for job, _ in await self.revisions()]

    async def revisions(self) -> list[tuple[Job, int]]:
        """The same, each with its revision."""
        found = []
        async for entry in read_job_entries(self._nc):
            if entry.value is not None:
                with suppress(ValueError):
                    found.append((job_of(entry), entry.revision))
        return sorted(found, key=lambda each: each[0].id)

    async def add(self, fields: Mapping[str, object]) -> Job:
        """Make a job of these fields."""
        job = build_job({**fields, "enabled_at": datetime.now(UTC)})
        await self._check_chain(job)
        try:
            await self._bucket.create(job.id, encode(job))
        except KeyWrongLastSequenceError:
            raise JobError("exists", f"there is a job {job.id} already: change it with `quotebus jobs edit {job.id}`") from None
        return job

    async def put(self, job_id: str, fields: Mapping[str, object], expected: int | None = None) -> Job:
        """Define a job anew: what is left out gets its default, but whether the job is enabled stays as it is."""
        job, revision = await self.find(job_id, expected)
        if job.origin == "settings":
            raise JobError("refused", f"job {job_id} comes from the settings: change it there, or pause it")
        life = {"enabled": job.enabled, "paused_reason": job.paused_reason}
        changed = build_job({**life, **fields, "id": job_id, "enabled_at": job.enabled_at})
        await self._check_chain(changed)
        if changed.enabled and (not job.enabled or any(getattr(job, name) != getattr(changed, name) for name in TIMING_FIELDS)):
            changed = msgspec.structs.replace(changed, paused_reason=None, enabled_at=datetime.now(UTC))
        with _first_writer_wins(job_id):
            await self._bucket.update(job_id, encode(changed), last=revision)
        return changed

    async def change(
        self, job_id: str, changes: Mapping[str, object], expected: int | None = None, *, life_only: bool = False
    ) -> Job:
        """Change some fields of a job. Of a job of the settings only its life can be changed: `enabled` and why not.

        Here and below, `expected`: the revision it must still have.
        """
        job, revision = await self.find(job_id, expected)
        if job.origin == "settings" and not life_only:
            raise JobError("refused", f"job {job_id} comes from the settings: change it there, or pause it")
        kept = msgspec.structs.asdict(job)
        if changes.keys() & set(SCHEDULE_FIELDS):
            kept |= dict.fromkeys((*SCHEDULE_FIELDS, *_OF_ONE_KIND)) | {"at": []}
            kept |= {"days": []} if "cron" in changes else {}
            kept |= {"jitter_s": 0.0} if "after" in changes else {}
        if changes.keys() & set(TIMING_FIELDS):
            changes = {**changes, "enabled_at": datetime.now(UTC)}
        if "dataset" in changes and changes["dataset"] != "bars":
            kept["timeframe"] = None
        changed = build_job({**kept, **changes})
        if "after" in changes:
            await self._check_chain(changed)
        with _first_writer_wins(job_id):
            await self._bucket.update(job_id, encode(changed), last=revision)
        return changed

    async def pause(self, job_id: str, reason: str, expected: int | None = None) -> Job:
        """Let a job ask for nothing until it is resumed."""
        return await self.change(job_id, {"enabled": False, "paused_reason": reason}, expected, life_only=True)

    async def resume(self, job_id: str, expected: int | None = None) -> Job:
        """Let a job go on; slots that passed meanwhile are not made up for."""
        life = {"enabled": True, "paused_reason": None, "enabled_at": datetime.now(UTC)}
        return await self.change(job_id, life, expected, life_only=True)

    async def remove(self, job_id: str, expected: int | None = None) -> None:
        """Delete a job that a person made, also one that is malformed."""
        entry = await self.entry(job_id, expected)
        with suppress(msgspec.MsgspecError):
            if decode(entry.value or b"", Job).origin == "settings":
                raise JobError("refused", f"job {job_id} comes from the settings: remove it there, or pause it")
        with _first_writer_wins(job_id):
            await self._bucket.delete(job_id, last=entry.revision)

    async def get(self, job_id: str) -> Job:
        """One job."""
        job, _ = await self.find(job_id)
        return job

    async def find(self, job_id: str, expected: int | None = None) -> tuple[Job, int]:
        """One job and its revision."""
        entry = await self.entry(job_id, expected)
        try:
            return decode(entry.value or b"", Job), entry.revision or 0
        except msgspec.MsgspecError as error:
            raise JobError("malformed", f"job {job_id} is malformed: {error}; delete it and make it anew") from None

    async def entry(self, job_id: str, expected: int | None = None) -> KeyValue.Entry:
        """Entry of the bucket under this id; its value may be no valid job."""
        try:
            entry = await self._bucket.get(job_id)
        except (NotFoundError, InvalidKeyError):
            raise JobError("not_found", f"there is no job {job_id}: `quotebus jobs` lists all") from None
        if expected not in (None, entry.revision):
            raise JobError("conflict", f"job {job_id} has revision {entry.revision}, not {expected}: look again and repeat")
        return entry

    async def calendars(self, jobs: Iterable[Job]) -> Calendars:
        """Session calendars of these jobs, as far as the server has them."""
        return await read_calendars(_jetstream(self._nc), {job.calendar for job in jobs if job.calendar is not None})

    async def _check_chain(self, job: Job) -> None:
        if job.after is not None:
            others = {other.id: other.after for other in await self.all()}
            if fault := check_chain(job.id, others | {job.id: job.after}):
                raise JobError("bad_request", fault)


async def open_job_bucket(nc: Client) -> JobBucket:
    """The bucket of this server.

    Raises:
        JobError: it is not provisioned.
    """
    try:
        return JobBucket(nc, await _jetstream(nc).key_value(JOBS_BUCKET))
    except NotFoundError:
        raise JobError("not_provisioned", "the bucket of jobs does not exist: run `quotebus migrate`") from None


def build_job(fields: Mapping[str, object]) -> Job:
    """A job of these fields that any scheduler can run."""
    try:
        job = msgspec.convert(dict(fields), Job)
        schedule_of(job)
        check_durations(job)
    except (msgspec.ValidationError, ValueError) as error:
        raise JobError("bad_request", str(error)) from None
    return job


def manual_request(job: Job) -> RefreshRequest:
    """Refresh request of a job that a person runs by hand, now."""
    now = datetime.now(UTC)
    return request_for_job(job, date_range(job, now), now + timedelta(seconds=job.expires_after_s))


def _jetstream(nc: Client) -> JetStreamContext:
    return nc.jetstream(timeout=5)


@contextmanager
def _first_writer_wins(job_id: str) -> Iterator[None]:
    try:
        yield
    except KeyWrongLastSequenceError:
        raise JobError("conflict", f"somebody else changed job {job_id} at this very moment: look again and repeat") from None
