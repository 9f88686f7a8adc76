"""Refreshes by hand: a wish on the bus, answered with its ids as soon as it is kept; what became of it is in its run."""

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import msgspec
from aiohttp import web

from contracts import subjects
from contracts.job import Job
from contracts.message import Dataset, JobId, Lane, SymbolText, Text, Timeframe, UniverseName
from contracts.refresh_request import RefreshRequest
from services.gateway.errors import Problem, field_problem, invalid
from services.gateway.request import checked_symbol, parse_body, read_body
from services.gateway.response import json_response
from services.gateway.routes.jobs import check_universe
from services.gateway.routing import Gateway, Route
from services.runtime.jobs.store import manual_request

BACKFILL_IS_WORTH_A_CALL_S = 86400.0
Seconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)]


class RefreshForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Form of a refresh: symbols and options of a `RefreshRequest`. `stock_ids`: another name for `symbols`."""

    symbols: list[SymbolText] = []
    stock_ids: list[SymbolText] = []
    universe: UniverseName | None = None
    max_symbols: Annotated[int, msgspec.Meta(ge=1)] | None = None
    dataset: Dataset = "bars"
    timeframe: Timeframe | None = None
    start: date | None = None
    end: date | None = None
    provider: Text | None = None
    max_age_s: Seconds | None = None
    lane: Lane = "manual"


class BackfillForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Days of the past, from `start` up to and without `end`, of symbols, or of what a `job` asks for."""

    start: date
    end: date
    symbols: list[SymbolText] = []
    job: JobId | None = None
    dataset: Dataset = "bars"
    timeframe: Timeframe | None = None
    provider: Text | None = None
    expires_after_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)] = BACKFILL_IS_WORTH_A_CALL_S


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is on the bus. `run`: where to see what becomes of it, a moment later."""

    request_id: str
    run_id: str
    run: str
    job: str | None = None


class AcceptedAll(msgspec.Struct, frozen=True):
    requests: list[Accepted]


async def refresh(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Ask for fresh data. The same body under the same `Idempotency-Key` within two minutes gives the ids of the first time."""
    form = parse_body(await read_body(request), RefreshForm)
    accepted = await _publish(gateway, request, _to_request(gateway, form), form.lane)
    return json_response(request, accepted, status=202, headers={"Location": accepted.run})


async def refresh_prices(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Ask for the symbols that are named; without any, run every job that is started."""
    body = await read_body(request)
    if body:
        form = parse_body(body, RefreshForm)
        return json_response(
            request, AcceptedAll([await _publish(gateway, request, _to_request(gateway, form), form.lane)]), status=202
        )
    jobs = [job for job, _ in await gateway.jobs.revisions() if job.enabled]
    if not jobs:
        raise Problem(409, "nothing_to_refresh", "no job is started: name symbols, or make a job at /scheduler/jobs")
    accepted = [await _publish(gateway, request, manual_request(job), "manual") for job in jobs]
    return json_response(request, AcceptedAll(accepted), status=202)


async def backfill(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Ask for days of the past, after everything else that waits."""
    form = parse_body(await read_body(request), BackfillForm)
    accepted = await _publish(gateway, request, await _backfill_request(gateway, form), "backfill")
    return json_response(request, AcceptedAll([accepted]), status=202)


async def run_job(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Run a job now, stopped or not."""
    job, _ = await gateway.jobs.find(request.match_info["id"])
    accepted = await _publish(gateway, request, manual_request(job), "manual")
    return json_response(request, accepted, status=202, headers={"Location": accepted.run})


async def _backfill_request(gateway: Gateway, form: BackfillForm) -> RefreshRequest:
    if bool(form.symbols) == (form.job is not None):
        raise field_problem(422, "symbols", "name symbols or a job, and not both")
    source: Job | BackfillForm = form if form.job is None else (await gateway.jobs.find(form.job))[0]
    return _validated(
        symbols=_checked_symbols(source.symbols, "symbols"),
        universe=source.universe if isinstance(source, Job) else None,
        max_symbols=source.max_symbols if isinstance(source, Job) else None,
        dataset=source.dataset,
        timeframe=source.timeframe,
        provider=source.provider,
        start=form.start,
        end=form.end,
        job=form.job,
        expires_at=datetime.now(UTC) + timedelta(seconds=form.expires_after_s),
    )


def _to_request(gateway: Gateway, form: RefreshForm) -> RefreshRequest:
    check_universe(form.universe, gateway.settings.universes)
    if form.symbols and form.stock_ids:
        raise field_problem(422, "stock_ids", "give stock_ids or symbols, not both")
    given = {name: getattr(form, name) for name in form.__struct_fields__ if name not in ("symbols", "stock_ids", "lane")}
    named = "stock_ids" if form.stock_ids else "symbols"
    return _validated(symbols=_checked_symbols(getattr(form, named), named), **given)


def _checked_symbols(symbols: Sequence[str], field: str) -> list[str]:
    return list(dict.fromkeys(checked_symbol(symbol, f"{field}[{n}]", 422) for n, symbol in enumerate(symbols)))


def _validated(**fields: Any) -> RefreshRequest:
    try:
        return RefreshRequest(**fields)
    except ValueError as error:
        raise invalid(422, str(error)) from None


async def _publish(gateway: Gateway, request: web.Request, wish: RefreshRequest, lane: Lane) -> Accepted:
    request_id = _identity(request, wish)
    wish = msgspec.structs.replace(wish, request_id=request_id)
    ack = await gateway.bus.publish(subjects.refresh_request(lane, wish.job), wish, message_id=request_id, timeout_s=2.0)
    request.setdefault("audit", {}).setdefault("runs", []).append(str(ack.seq))
    return Accepted(request_id=request_id, run_id=str(ack.seq), run=f"/runs/{ack.seq}", job=wish.job)


def _identity(request: web.Request, wish: RefreshRequest) -> str:
    """One of its own for each wish, or the same for the same wish under the same key."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return uuid.uuid4().hex
    text = f"{request.path}\n{key}\n{wish.job}\n".encode(errors="surrogateescape")
    # With another body it is another wish, whatever its key: to answer it with the first one's ids would be to lose it.
    return hashlib.sha256(text + request.get("body", b"")).hexdigest()[:32]


SCHEMAS = (RefreshForm, BackfillForm)
ROUTES = (
    Route(
        "POST", "/refresh", refresh, "Ask for fresh data now.", "operate", {202: Accepted}, body="RefreshForm",
        problems=(422,), headers=("Idempotency-Key",),
    ),
    Route(
        "POST", "/api/v1/admin/refresh-prices", refresh_prices, "Ask for symbols, or run every job that is started.", "operate",
        {202: AcceptedAll}, body="RefreshForm", problems=(409, 422), headers=("Idempotency-Key",),
    ),
    Route(
        "POST", "/backfills", backfill, "Ask for days of the past.", "operate", {202: AcceptedAll}, body="BackfillForm",
        problems=(404, 422), headers=("Idempotency-Key",),
    ),
    Route("POST", "/scheduler/jobs/{id}/run", run_job, "Run a job now.", "operate", {202: Accepted}, problems=(404,),
        headers=("Idempotency-Key",)),
)  # fmt: skip
