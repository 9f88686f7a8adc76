"""Jobs: listed, made, changed, started and stopped. A change is in the bucket when it is answered, and clocks follow the bucket."""

import asyncio
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import nats.errors
from aiohttp import web

from contracts.job import Job, TimeOfDay
from services.gateway.errors import field_problem
from services.gateway.request import checked_symbol, expected_revision, parse_body, read_body
from services.gateway.response import document_response, etag_of, json_response
from services.gateway.routes.plan import NoFetcherError, costs
from services.gateway.routing import Gateway, Route
from services.runtime.health import STATUS_ASK
from services.runtime.jobs.store import JobBucket
from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.sessions import Calendars
from services.runtime.settings import unknown_universe

STOPPED = "stopped over HTTP"
_CLOCKS_ANSWER_S = 0.5
# Nobody waits longer for what a job costs: the job is made already.
_COSTS_WITHIN_S = 2.0


class JobList(msgspec.Struct, frozen=True):
    """Every job, each as a single one is shown."""

    jobs: list[Any]


class PauseForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Form to pause a job; its reason appears wherever jobs are listed."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class SchedulerStatus(msgspec.Struct, frozen=True):
    """`running`: a clock is there and ready. `next_job` falls due at `next_at`, of those that are enabled."""

    running: bool
    clocks: int
    jobs: int
    enabled: int
    paused: int
    next_job: str | None
    next_at: datetime | None


async def list_jobs(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Every job by id."""
    return json_response(request, JobList(await job_views(gateway.jobs, await gateway.jobs.revisions())))


async def create_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """A new job. The answer says what it costs, and which limits have no room for all jobs together."""
    fields = job_fields(await read_body(request))
    check_universe(fields.get("universe"), gateway.settings.universes)
    job = await gateway.jobs.add(fields)
    request["audit"] = {"job": job.id}
    return await _job_response(gateway, request, job.id, 201, {"Location": f"/scheduler/jobs/{job.id}"}, with_costs=True)


async def get_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """One job; its ETag begins with its revision."""
    return await _job_response(gateway, request, request.match_info["id"])


async def replace_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Define the job anew; what is left out gets its default. The answer says what it costs."""
    fields = job_fields(await read_body(request))
    job, expected = await _job_of_path(gateway, request)
    if fields.setdefault("id", job.id) != job.id:
        raise field_problem(422, "id", f"{fields['id']!r} is not the job of this path, {job.id!r}: leave it out")
    check_universe(fields.get("universe"), gateway.settings.universes)
    await gateway.jobs.put(job.id, fields, expected)
    return await _job_response(gateway, request, job.id, with_costs=True)


async def delete_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Delete the job, though it be malformed; what it has asked for already goes on."""
    job_id = request.match_info["id"]
    await gateway.jobs.entry(job_id)
    await gateway.jobs.remove(job_id, expected_revision(request))
    return web.Response(status=204)


async def start_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Let the job ask; slots that passed while it was stopped are not made up for. One that is started stays as it is."""
    job, expected = await _job_of_path(gateway, request)
    if not job.enabled:
        await gateway.jobs.resume(job.id, expected)
    return await _job_response(gateway, request, job.id)


async def stop_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Let the job ask for nothing until it is started. One that is stopped stays as it is."""
    job, expected = await _job_of_path(gateway, request)
    if job.enabled:
        await gateway.jobs.pause(job.id, STOPPED, expected)
    return await _job_response(gateway, request, job.id)


async def pause_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Stop the job and say why."""
    form = parse_body(await read_body(request), PauseForm)
    job, expected = await _job_of_path(gateway, request)
    request["audit"] = {"reason": form.reason}
    await gateway.jobs.pause(job.id, form.reason, expected)
    return await _job_response(gateway, request, job.id)


async def scheduler_status(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Status of the scheduler: whether clocks run, how many jobs there are, and which is next."""
    jobs, now = await gateway.jobs.all(), datetime.now(UTC)
    enabled = [job for job in jobs if job.enabled]
    calendars = await gateway.jobs.calendars(enabled)
    due = min(((at, job.id) for job in enabled if (at := next_slot(job, calendars, now))), default=(None, None))
    ready = await _clocks(gateway)
    return json_response(
        request, SchedulerStatus(any(ready), len(ready), len(jobs), len(enabled), len(jobs) - len(enabled), due[1], due[0])
    )


async def _job_of_path(gateway: Gateway, request: web.Request) -> tuple[Job, int | None]:
    """The job of the path, which must be there, and the revision that it must have."""
    job_id = request.match_info["id"]
    # A job that is not there has no revision to be wrong about: 404 comes before 412.
    await gateway.jobs.find(job_id)
    expected = expected_revision(request)
    return (await gateway.jobs.find(job_id, expected))[0], expected


async def _job_response(
    gateway: Gateway,
    request: web.Request,
    job_id: str,
    status: int = 200,
    headers: dict[str, str] | None = None,
    *,
    with_costs: bool = False,
) -> web.Response:
    job, revision = await gateway.jobs.find(job_id)
    request.setdefault("audit", {})["revision"] = revision
    (view,) = await job_views(gateway.jobs, [(job, revision)])
    if with_costs and job.enabled:
        with suppress(NoFetcherError):
            plan = await costs(gateway, job, _COSTS_WITHIN_S)
            view["cost"] = next((cost for cost in plan.jobs if cost.job == job.id), None)
            view["too_small"] = [limit for limit in plan.limits if not limit.fits]
    # The revision, to change it by; and what is shown, of which `next_at` moves on without a change.
    body = msgspec.json.encode(view)
    etag = f'"{revision}-{etag_of(body)[1:]}'
    return document_response(request, body, status=status, etag=etag, headers=headers)


async def _clocks(gateway: Gateway) -> list[bool]:
    """Of each scheduler that answers whether it is ready."""
    nc = gateway.bus.nc
    subscription = await nc.subscribe(inbox := nc.new_inbox())
    ready: list[bool] = []
    try:
        await nc.publish(STATUS_ASK, b"{}", reply=inbox)
        async with asyncio.timeout(_CLOCKS_ANSWER_S):
            while True:
                report = json.loads((await subscription.next_msg(timeout=_CLOCKS_ANSWER_S)).data or b"{}")
                if report.get("service") == "scheduler":
                    ready.append(bool(report["ready"]))
    except (TimeoutError, nats.errors.TimeoutError):
        return ready
    finally:
        await subscription.unsubscribe()


_JOBS, _JOB = "/scheduler/jobs", "/scheduler/jobs/{id}"
_CHANGED = (404, 409, 412)
_ETAG = ("If-Match",)


# What GET adds or the bucket decides: whoever sends back what they were given need not take it out.
READ_ONLY = frozenset({"type", "revision", "next_at", "cost", "too_small", "origin", "enabled_at"})
SHORT = {"name": "id", "stock_ids": "symbols", "schedule_time": "at"}
_LONGEST_ID = 64


def job_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job, whichever way they were sent; what they hold is for the contract to check.

    Raises:
        Problem: 422.
    """
    fields = {name: value for name, value in body.items() if name not in READ_ONLY and name not in SHORT}
    for short, name in SHORT.items():
        if short not in body:
            continue
        if name in fields:
            raise field_problem(422, short, f"give {short} or {name}, not both")
        fields[name] = _SPELLED[short](body[short])
    if isinstance(fields.get("symbols"), list):
        named = "stock_ids" if "stock_ids" in body else "symbols"
        fields["symbols"] = [_symbol(each, f"{named}[{n}]") for n, each in enumerate(fields["symbols"])]
    return fields


def check_universe(name: object, defined: Iterable[str]) -> None:
    """Refuse a universe that the settings do not define.

    Raises:
        Problem: 422.
    """
    if fault := unknown_universe(name, defined):
        raise field_problem(422, "universe", fault)


def _id_of(name: object) -> str:
    # Letters with something above or below them become those without.
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower() if isinstance(name, str) else ""
    made = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:_LONGEST_ID].rstrip("-")
    if not made:
        raise field_problem(422, "name", f"{str(name)[:80]!r} has no letter or digit to make an id of")
    return made


def _symbol(text: object, field: str) -> str:
    if not isinstance(text, str):
        raise field_problem(422, field, f"{str(text)[:80]!r} is no symbol; give texts such as AAPL or BRK.B")
    return checked_symbol(text, field, 422)


def _stocks(stocks: object) -> list[object]:
    if not isinstance(stocks, list):
        raise field_problem(422, "stock_ids", f'{str(stocks)[:80]!r} is no list; give one such as ["AAPL"]')
    return stocks


def _at(time: object) -> list[str]:
    times = time if isinstance(time, list) else [time]
    try:
        return msgspec.convert(times, list[TimeOfDay])
    except msgspec.ValidationError:
        raise field_problem(422, "schedule_time", f"{str(time)[:80]!r} is no time of day; give one such as 17:00") from None


_SPELLED: Mapping[str, Callable[[Any], object]] = {"name": _id_of, "stock_ids": _stocks, "schedule_time": _at}


async def job_views(bucket: JobBucket, jobs: Sequence[tuple[Job, int]]) -> list[dict[str, Any]]:
    """These jobs, each given with its revision. What they cost nobody has worked out here."""
    now = datetime.now(UTC)
    calendars = await bucket.calendars(job for job, _ in jobs)
    return [
        {
            **msgspec.to_builtins(job),
            "revision": revision,
            "next_at": next_slot(job, calendars, now) if job.enabled else None,
            "cost": None,
            "too_small": [],
        }
        for job, revision in jobs
    ]


def next_slot(job: Job, calendars: Calendars, now: datetime) -> datetime | None:
    """Its next slot; none if it follows another job, if its sessions are not known, or if no slot will come."""
    try:
        return schedule_of(job, calendars).next_after(now)
    except ValueError:
        return None


SCHEMAS = (Job, JobList, PauseForm)
ROUTES = (
    Route("GET", _JOBS, list_jobs, "Every job by id.", "read", {200: "JobList"}),
    Route("POST", _JOBS, create_job, "Make a job.", "operate", {201: "JobView"}, body="JobForm", problems=(409, 422)),
    Route("GET", _JOB, get_job, "One job; its ETag begins with its revision.", "read", {200: "JobView"}, problems=(404,)),
    Route(
        "PUT", _JOB, replace_job, "Define a job anew.", "operate", {200: "JobView"}, body="JobForm",
        problems=(*_CHANGED, 422), headers=_ETAG,
    ),
    Route("DELETE", _JOB, delete_job, "Delete a job.", "operate", {204: None}, problems=_CHANGED, headers=_ETAG),
    Route("POST", f"{_JOB}/start", start_job, "Let a job ask.", "operate", {200: "JobView"}, problems=_CHANGED, headers=_ETAG),
    Route("POST", f"{_JOB}/stop", stop_job, "Stop a job.", "operate", {200: "JobView"}, problems=_CHANGED, headers=_ETAG),
    Route(
        "POST", f"{_JOB}/pause", pause_job, "Stop a job and say why.", "operate", {200: "JobView"}, body="PauseForm",
        problems=(*_CHANGED, 422), headers=_ETAG,
    ),
    Route("GET", "/scheduler/status", scheduler_status, "Clocks and jobs in short.", "read", {200: SchedulerStatus}),
)  # fmt: skip
