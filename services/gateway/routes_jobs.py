"""Jobs: listed, made, changed, started and stopped. A change is in the bucket when it is answered, and clocks follow the bucket."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import nats.errors
from aiohttp import web

from contracts.job import Job
from services.gateway.answering import document_answer, etag_of, json_answer
from services.gateway.job_form import check_universe, job_fields
from services.gateway.job_view import job_views, next_slot
from services.gateway.problems import field_problem
from services.gateway.reading import body_of, converted, expected_revision
from services.gateway.routes import Gateway, Route
from services.gateway.routes_plan import NobodyAnswersError, costs
from services.runtime.health import STATUS_ASK

STOPPED = "stopped over HTTP"
_CLOCKS_ANSWER_S = 0.5
# Nobody waits longer for what a job costs: the job is made already.
_COSTS_WITHIN_S = 2.0


class JobList(msgspec.Struct, frozen=True):
    """Every job, each as a single one is shown."""

    jobs: list[Any]


class PauseForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why; whoever looks at the jobs reads it."""

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
    return json_answer(request, JobList(await job_views(gateway.jobs, await gateway.jobs.revisions())))


async def create_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """A new job. The answer says what it costs, and which limits have no room for all jobs together."""
    fields = job_fields(await body_of(request))
    check_universe(fields.get("universe"), gateway.settings.universes)
    job = await gateway.jobs.add(fields)
    request["audit"] = {"job": job.id}
    return await _shown(gateway, request, job.id, 201, {"Location": f"/scheduler/jobs/{job.id}"}, with_costs=True)


async def get_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """One job; its ETag begins with its revision."""
    return await _shown(gateway, request, request.match_info["id"])


async def replace_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Define the job anew; what is left out gets its default. The answer says what it costs."""
    fields = job_fields(await body_of(request))
    job, expected = await _meant(gateway, request)
    if fields.setdefault("id", job.id) != job.id:
        raise field_problem(422, "id", f"{fields['id']!r} is not the job of this path, {job.id!r}: leave it out")
    check_universe(fields.get("universe"), gateway.settings.universes)
    await gateway.jobs.put(job.id, fields, expected)
    return await _shown(gateway, request, job.id, with_costs=True)


async def delete_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Delete the job, though it be malformed; what it has asked for already goes on."""
    job_id = request.match_info["id"]
    await gateway.jobs.entry(job_id)
    await gateway.jobs.remove(job_id, expected_revision(request))
    return web.Response(status=204)


async def start_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Let the job ask; slots that passed while it was stopped are not made up for. One that is started stays as it is."""
    job, expected = await _meant(gateway, request)
    if not job.enabled:
        await gateway.jobs.resume(job.id, expected)
    return await _shown(gateway, request, job.id)


async def stop_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Let the job ask for nothing until it is started. One that is stopped stays as it is."""
    job, expected = await _meant(gateway, request)
    if job.enabled:
        await gateway.jobs.pause(job.id, STOPPED, expected)
    return await _shown(gateway, request, job.id)


async def pause_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Stop the job and say why."""
    form = converted(await body_of(request), PauseForm)
    job, expected = await _meant(gateway, request)
    request["audit"] = {"reason": form.reason}
    await gateway.jobs.pause(job.id, form.reason, expected)
    return await _shown(gateway, request, job.id)


async def scheduler_status(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Whether clocks run, how many jobs there are, and which is next."""
    jobs, now = await gateway.jobs.all(), datetime.now(UTC)
    enabled = [job for job in jobs if job.enabled]
    calendars = await gateway.jobs.calendars(enabled)
    due = min(((at, job.id) for job in enabled if (at := next_slot(job, calendars, now))), default=(None, None))
    ready = await _clocks(gateway)
    return json_answer(
        request, SchedulerStatus(any(ready), len(ready), len(jobs), len(enabled), len(jobs) - len(enabled), due[1], due[0])
    )


async def _meant(gateway: Gateway, request: web.Request) -> tuple[Job, int | None]:
    """The job of the path, which must be there, and the revision that it must have."""
    job_id = request.match_info["id"]
    # A job that is not there has no revision to be wrong about: 404 comes before 412.
    await gateway.jobs.find(job_id)
    expected = expected_revision(request)
    return (await gateway.jobs.find(job_id, expected))[0], expected


async def _shown(
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
        with suppress(NobodyAnswersError):
            plan = await costs(gateway, job, _COSTS_WITHIN_S)
            view["cost"] = next((cost for cost in plan.jobs if cost.job == job.id), None)
            view["too_small"] = [limit for limit in plan.limits if not limit.fits]
    # The revision, to change it by; and what is shown, of which `next_at` moves on without a change.
    body = msgspec.json.encode(view)
    etag = f'"{revision}-{etag_of(body)[1:]}'
    return document_answer(request, body, status=status, etag=etag, headers=headers)


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
