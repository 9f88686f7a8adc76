"""Route of the cost plan, which a fetcher estimates: it has the providers' limits, and reads the universes."""

import msgspec
import nats.errors
from aiohttp import web

from contracts import subjects
from contracts.job import Job
from contracts.message import decode, encode
from contracts.plan_ask import CostPlan, PlanAsk
from services.gateway.errors import Problem
from services.gateway.response import json_response
from services.gateway.routing import Gateway, Route

PLAN_WAIT_S = 15.0


class NoFetcherError(Exception):
    """No fetcher can say what jobs cost; the text says why."""


async def costs(gateway: Gateway, draft: Job | None = None, wait_s: float = PLAN_WAIT_S) -> CostPlan:
    """The costs of the enabled jobs, `draft` in place of the one with its id.

    Raises:
        NoFetcherError: there is no answer in time, or it is an error.
    """
    try:
        answer = await gateway.bus.nc.request(subjects.PLAN_ASK, encode(PlanAsk(job=draft)), timeout=wait_s)
        found = decode(answer.data, CostPlan)
    except nats.errors.NoRespondersError:
        raise NoFetcherError("no fetcher is running to work it out: start one, or see `quotebus plan`") from None
    except (TimeoutError, nats.errors.TimeoutError, msgspec.MsgspecError):
        raise NoFetcherError("the fetchers do not answer: see their logs, or `quotebus plan`") from None
    if found.error:
        raise NoFetcherError(f"a fetcher says: {found.error}")
    return found


async def plan(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """For each enabled job its calls on the fullest day of the next seven, and for each limit what all jobs want of it."""
    try:
        found = await costs(gateway)
    except NoFetcherError as error:
        raise Problem(503, "no_fetcher", str(error)) from None
    return json_response(request, found)


ROUTES = (Route("GET", "/plan", plan, "What the jobs cost, against every limit.", "read", {200: CostPlan}),)
