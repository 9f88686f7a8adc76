"""Runs: what was asked, how it went, what it cost, how late it was."""

import json
from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web

from contracts.message import JobId
from services.gateway.errors import Problem
from services.gateway.read_postgres import Row
from services.gateway.request import Instant, instant_of, parse_query
from services.gateway.response import json_response
from services.gateway.routing import Gateway, Route

_WORKED_OUT = ("late_s", "took_s", "outcomes", "reasons", "calls")


class RunsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest `limit` runs, of one `job` or of all; `before`: older ones, by when they were requested."""

    job: JobId | None = None
    before: Instant | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """`late_s`: from the slot to the request. `took_s`: from the request to the end, null while it goes on.

    `outcomes`: symbols by outcome, `reasons`: the same by outcome and reason, `calls`: permits by provider; all once it is over.
    No `job`: asked by hand. `refused`: why nothing could be asked for at all; then it has failed, whatever its outcomes.
    """

    run_id: str
    request_id: str
    job: str | None
    lane: str
    dataset: str
    timeframe: str | None
    slot_at: datetime | None
    requested_at: datetime
    deadline_at: datetime
    finished_at: datetime | None
    late_s: float | None
    took_s: float | None
    missed_slots: int
    planned: int
    outcomes: dict[str, int]
    reasons: dict[str, dict[str, int]]
    calls: dict[str, int]
    refused: str | None


class RunSymbol(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one symbol; `outcome`: null while it is unknown."""

    symbol: str
    outcome: str | None
    reason: str | None
    message: str | None
    provider: str | None
    called_at: datetime | None
    at: datetime | None
    rows: int
    calls: int


class MissedSlot(msgspec.Struct, frozen=True):
    """A slot of a job that got no run of its own, and why."""

    job: str
    slot_at: datetime
    reason: str


class RunList(msgspec.Struct, frozen=True):
    """`next_before`: the `before` of the next page, null on the last one. `missed`: slots without a run, of the same times."""

    runs: list[Run]
    missed: list[MissedSlot]
    next_before: datetime | None


class RunDetail(msgspec.Struct, frozen=True):
    run: Run
    symbols: list[RunSymbol]


async def list_runs(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The newest runs, the newest first."""
    query = parse_query(request, RunsQuery)
    before = instant_of("before", query.before)
    runs = [_run(row) for row in await gateway.store.runs(query.job, before, query.limit)]
    further = runs[-1].requested_at if len(runs) == query.limit else None
    missed = [MissedSlot(**row) for row in await gateway.store.missed(query.job, before, query.limit)]
    return json_response(request, RunList(runs, [slot for slot in missed if not further or slot.slot_at >= further], further))


async def get_run(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """One run, and what became of each symbol of it."""
    run_id = request.match_info["id"]
    # It is a number of the stream of requests; nothing else needs looking for.
    found = await gateway.store.run(run_id) if run_id.isascii() and run_id.isdecimal() else None
    if found is None:
        what = f"there is no run {run_id[:80]}: /runs lists the newest; one that was just asked for is there when it is planned"
        raise Problem(404, "not_found", what)
    run, results = found
    symbols = [RunSymbol(**{name: row[name] for name in RunSymbol.__struct_fields__}) for row in results]
    return json_response(request, RunDetail(_run(run), symbols))


def _run(row: Row) -> Run:
    plain = {name: row[name] for name in Run.__struct_fields__ if name not in _WORKED_OUT}
    outcomes, calls, reasons = (json.loads(row[name] or "{}") for name in ("counts", "calls", "reasons"))
    late_s = (row["requested_at"] - row["slot_at"]).total_seconds() if row["slot_at"] else None
    took_s = (row["finished_at"] - row["requested_at"]).total_seconds() if row["finished_at"] else None
    return Run(**plain, late_s=late_s, took_s=took_s, outcomes=outcomes, reasons=reasons, calls=calls)


ROUTES = (
    Route("GET", "/runs", list_runs, "The newest runs.", "read", {200: RunList}, query=RunsQuery),
    Route("GET", "/runs/{id}", get_run, "One run and its symbols.", "read", {200: RunDetail}, problems=(404,)),
)
