"""Routes outside the API: health, metrics, and the web page."""

import base64
import hashlib
import re
from importlib.resources import files

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.gateway.routing import Gateway, Route

_PAGE = files("services.gateway").joinpath("web/index.html").read_text(encoding="utf-8")


def _allowed(tag: str) -> str:
    """CSP sources of the page's inline elements with this tag, by hash: the browser runs no other, wherever it came from."""
    inner = re.findall(rf"(?s)<{tag}>(.*?)</{tag}>", _PAGE)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in inner)


_POLICY = (
    f"default-src 'none'; script-src {_allowed('script')}; style-src {_allowed('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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
    Route("GET", "/", page, "The page.", "open", {200: None}, documented=False),
    Route("GET", "/livez", livez, "The event loop turns.", "open", {200: None}, documented=False),
    Route("GET", "/readyz", readyz, "Every part works.", "open", {200: None}, documented=False),
    Route("GET", "/metrics", metrics, "Counts for Prometheus.", "read", {200: None}, documented=False),
)
