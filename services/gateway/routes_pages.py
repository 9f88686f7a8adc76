"""What is not part of the API: health, metrics, the API's own description, and the page to look at."""

import base64
import hashlib
import re
from importlib.resources import files

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.gateway.answering import document_answer
from services.gateway.openapi import document
from services.gateway.routes import Gateway, Route
from services.gateway.routes_history import ROUTES as HISTORY
from services.gateway.routes_jobs import ROUTES as JOBS
from services.gateway.routes_plan import ROUTES as PLAN
from services.gateway.routes_prices import ROUTES as PRICES
from services.gateway.routes_refresh import ROUTES as REFRESH
from services.gateway.routes_runs import ROUTES as RUNS
from services.gateway.routes_stream import ROUTES as STREAM

API: tuple[Route, ...] = (*JOBS, *PLAN, *REFRESH, *RUNS, *PRICES, *HISTORY, *STREAM)
_PAGE = files("services.gateway").joinpath("web/index.html").read_text(encoding="utf-8")


def _allowed(tag: str) -> str:
    """What the page holds of this kind, by hash: nothing else of it may run, wherever it came from."""
    inner = re.findall(rf"(?s)<{tag}>(.*?)</{tag}>", _PAGE)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in inner)


_POLICY = (
    f"default-src 'none'; script-src {_allowed('script')}; style-src {_allowed('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_OPENAPI = document(API)


async def page(_gateway: Gateway, _request: web.Request) -> web.StreamResponse:
    """The page: one file, which loads nothing from elsewhere."""
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(text=_PAGE, headers=headers)


async def openapi(_gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The API's description, in OpenAPI 3.1."""
    return document_answer(request, _OPENAPI)


async def livez(_gateway: Gateway, _request: web.Request) -> web.StreamResponse:
    """The event loop turns."""
    return web.Response(text="ok\n")


async def readyz(gateway: Gateway, _request: web.Request) -> web.StreamResponse:
    """Every part works."""
    body = msgspec.json.encode(gateway.health.report())
    return web.Response(status=200 if gateway.health.ok else 503, body=body, content_type="application/json")


async def metrics(_gateway: Gateway, _request: web.Request) -> web.StreamResponse:
    """Counts for Prometheus."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES = (
    Route("GET", "/", page, "The page.", "open", {200: None}),
    Route("GET", "/openapi.json", openapi, "The API's description.", "open", {200: None}),
    Route("GET", "/livez", livez, "The event loop turns.", "open", {200: None}),
    Route("GET", "/readyz", readyz, "Every part works.", "open", {200: None}),
    Route("GET", "/metrics", metrics, "Counts for Prometheus.", "read", {200: None}),
)
