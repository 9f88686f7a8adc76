"""Responses: JSON with an ETag of its content, not sent again to a reader that has it."""

import zlib
from collections.abc import Mapping

import msgspec
from aiohttp import web

# A reader may keep it, and asks each time whether it still holds: that costs an empty answer.
REVALIDATE = "no-cache"
_encoder = msgspec.json.Encoder()


def etag_of(body: bytes) -> str:
    """Says which body it is."""
    return f'"{zlib.crc32(body):08x}{len(body):x}"'


def json_response(
    request: web.Request, content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """The content as JSON; 304 if the reader of a GET has it already."""
    return document_response(request, _encoder.encode(content), status=status, headers=headers)


def document_response(
    request: web.Request, body: bytes, *, status: int = 200, etag: str | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A body that is JSON already, likewise. `etag`: instead of one made of the body."""
    more = {"Content-Type": "application/json", "Cache-Control": REVALIDATE, **(headers or {})}
    reads = request.method in ("GET", "HEAD")
    if etag or reads:
        more["ETag"] = etag = etag or etag_of(body)
    known = request.headers.get("If-None-Match") if reads else None
    if known is not None and ((etag or "") in known or known.strip() == "*"):
        del more["Content-Type"]
        return web.Response(status=304, headers=more)
    return web.Response(status=status, body=body, headers=more)
