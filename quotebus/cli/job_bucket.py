"""The jobs in the bucket, as commands read and change them: a change is made only if nobody else was quicker."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from nats.js.errors import InvalidKeyError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from contracts.job import Job
from contracts.message import decode, encode
from contracts.subjects import JOBS_BUCKET
from quotebus.cli.connections import nats_of
from quotebus.cli.errors import CommandError
from services.scheduler.due import schedule_of
from services.scheduler.jobs import entries

if TYPE_CHECKING:
    from quotebus.client import Client
    from quotebus.settings_here import Here

WHEN = frozenset({"cron", "every_s", "at"})
_TIMES = WHEN | {"timezone"}


class JobBucket:
    """Every job that there is. `client`: the connection it was opened on."""

    def __init__(self, client: "Client", bucket: KeyValue) -> None:
        self.client = client
        self._bucket = bucket

    async def all(self) -> list[Job]:
        """Every well-formed job by id. A malformed one is left out: the scheduler reports it."""
        found = []
        async for entry in entries(self.client.js):
            if entry.body is not None:
                try:
                    found.append(entry.job())
                except ValueError:
                    continue
        return sorted(found, key=lambda job: job.id)

    async def add(self, fields: Mapping[str, object]) -> Job:
        """Make a job of these fields."""
        job = made({**fields, "enabled_at": datetime.now(UTC)})
        try:
            await self._bucket.create(job.id, encode(job))
        except KeyWrongLastSequenceError:
            raise CommandError("exists", f"there is a job {job.id} already: change it with `quotebus jobs edit {job.id}`") from None
        return job

    async def change(self, job_id: str, changes: Mapping[str, object], *, life_only: bool = False) -> Job:
        """Change some fields of a job. Of a job of the settings only its life can be changed: `enabled` and why not."""
        job, revision = await self._read(job_id)
        if job.origin == "settings" and not life_only:
            raise CommandError("refused", f"job {job_id} comes from the settings: change it there, or pause it")
        kept = msgspec.structs.asdict(job)
        if WHEN & changes.keys():
            kept |= {"cron": None, "every_s": None, "at": []}
        if _TIMES & changes.keys():
            changes = {**changes, "enabled_at": datetime.now(UTC)}
        if "dataset" in changes and changes["dataset"] != "bars":
            kept["timeframe"] = None
        changed = made({**kept, **changes})
        with _nobody_quicker(job_id):
            await self._bucket.update(job_id, encode(changed), last=revision)
        return changed

    async def remove(self, job_id: str) -> None:
        """Delete a job that a person made."""
        job, revision = await self._read(job_id)
        if job.origin == "settings":
            raise CommandError("refused", f"job {job_id} comes from the settings: remove it there, or pause it")
        with _nobody_quicker(job_id):
            await self._bucket.delete(job_id, last=revision)

    async def get(self, job_id: str) -> Job:
        """One job."""
        job, _ = await self._read(job_id)
        return job

    async def _read(self, job_id: str) -> tuple[Job, int]:
        try:
            entry = await self._bucket.get(job_id)
            return decode(entry.value or b"", Job), entry.revision or 0
        except (NotFoundError, InvalidKeyError):
            raise CommandError("not_found", f"there is no job {job_id}: `quotebus jobs` lists all") from None
        except msgspec.MsgspecError as error:
            raise CommandError("malformed", f"job {job_id} is malformed: {error}") from None


@asynccontextmanager
async def job_bucket(here: "Here") -> AsyncIterator[JobBucket]:
    """The jobs of the settings' NATS."""
    async with nats_of(here) as client:
        try:
            bucket = await client.js.key_value(JOBS_BUCKET)
        except NotFoundError:
            raise CommandError("not_provisioned", "the bucket of jobs does not exist: run `quotebus migrate`") from None
        yield JobBucket(client, bucket)


def made(fields: Mapping[str, object]) -> Job:
    """A job of these fields that any scheduler can run."""
    try:
        job = msgspec.convert(dict(fields), Job)
        schedule_of(job)
    except (msgspec.ValidationError, ValueError) as error:
        raise CommandError("bad_request", str(error)) from None
    return job


@contextmanager
def _nobody_quicker(job_id: str) -> Iterator[None]:
    try:
        yield
    except KeyWrongLastSequenceError:
        raise CommandError("conflict", f"somebody else changed job {job_id} at this very moment: look again and repeat") from None
