"""A route as one line of a table: the server is made of it, and so is the OpenAPI document."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from aiohttp import web

from services.gateway.auth import Authorizer, Scope
from services.gateway.errors import Problem, problem_for
from services.gateway.metrics import SERVED
from services.gateway.price_reader import PriceReader
from services.gateway.read_postgres import Store
from services.gateway.refresh_on_read import StaleReadRefresher
from services.runtime.bus import Bus
from services.runtime.health import Health
from services.runtime.jobs.store import JobBucket
from services.runtime.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True)
class Gateway:
    """Dependencies of the routes."""

    settings: Settings
    bus: Bus
    jobs: JobBucket
    store: Store
    prices: PriceReader
    stale: StaleReadRefresher
    access: Authorizer
    health: Health
    streams: set[asyncio.Task[Any]] = field(default_factory=set)


Handler = Callable[[Gateway, web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """`query`: a struct whose fields are the parameters. `body`: the name of its schema.

    `answers`: by status, a struct or the name of a schema. `media`: what an answer is. `problems`: statuses of those of its own.
    `documented`: part of the API, as OpenAPI describes it.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    handler: Handler
    summary: str
    scope: Scope
    answers: Mapping[int, type | str | None]
    query: type | None = None
    body: str | None = None
    problems: Sequence[int] = ()
    media: Sequence[str] = ("application/json",)
    headers: Sequence[str] = ()
    documented: bool = True

    @property
    def methods(self) -> Sequence[str]:
        """HEAD goes with GET, but for a stream, which has no end."""
        return ("GET", "HEAD") if self.method == "GET" and "text/event-stream" not in self.media else (self.method,)

    @property
    def name(self) -> str:
        """Says which route it is, in metrics and in the OpenAPI document."""
        return self.handler.__name__


def endpoint(gateway: Gateway, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Build the aiohttp handler of a route: authorization, the route's handler, then metrics and the audit log."""

    async def serve(request: web.Request) -> web.StreamResponse:
        began = time.perf_counter()
        who = "nobody"
        answer: web.StreamResponse
        try:
            who = gateway.access.check(request, route.scope)
            answer = await route.handler(gateway, request)
        except Exception as error:
            answer = _error_response(error, request)
        SERVED.add(route.name, answer.status, time.perf_counter() - began)
        if route.scope == "operate":
            _audit(request, route, who, answer.status)
        return answer

    return serve


async def not_found(_request: web.Request) -> web.StreamResponse:
    """For every path that is none of ours."""
    return Problem(404, "not_found", "there is no such path: /openapi.json lists all").response()


def method_not_allowed(path: str, allowed: Sequence[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """For the methods that a path does not have."""
    known = ", ".join(sorted(allowed))

    async def refuse(request: web.Request) -> web.StreamResponse:
        what = f"{request.method[:20]} is not for {path}: {known}"
        return Problem(405, "method_not_allowed", what, headers={"Allow": known}).response()

    return refuse


def _error_response(error: Exception, request: web.Request) -> web.Response:
    """The answer to what was raised; our own faults are logged and not shown."""
    problem = problem_for(error)
    if problem is None:
        log.error("request_failed", method=request.method, path=request.path[:200], exc_info=error)
        problem = Problem(500, "failed", "the gateway failed: its log says how")
    return problem.response()


def _audit(request: web.Request, route: Route, who: str, status: int) -> None:
    """One line for each change, made or refused."""
    more = request.get("audit", {})
    log.info("audit", action=route.name, who=who, status=status, path=request.path[:200], remote=request.remote, **more)
