"""How a vendor, or what stands in front of it, fails over HTTP: each fault is a handler, and what must be made of it."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from aiohttp import web

from services.fetcher.provider import Verdict

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MIB = 2**20
MOST_BYTES = MIB  # of a body, in these tests
# The time of now: an adapter that keeps tokens may look at its own clock.
NOW = datetime.now(UTC).replace(microsecond=0)
TOMORROW = NOW + timedelta(days=1)

BROKEN = {Verdict.MALFORMED, Verdict.SERVER_ERROR}
NOT_ENTITLED = {Verdict.PLAN_RESTRICTED, Verdict.UNAUTHORIZED, Verdict.SERVER_ERROR}
WORDS = {
    401: "Invalid API key.",
    402: "This needs a paid plan; please upgrade your subscription.",
    403: "Your plan does not include this data; please upgrade your subscription.",
    429: "Too many requests, slow down.",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "upstream request timeout",
}


@dataclass(frozen=True)
class Fault:
    """`advice`: what an adapter does that passes. `retry_at`: when to come back, or so much later as the call took."""

    handler: Handler
    verdicts: set[Verdict]
    advice: str
    retry_at: datetime | None = None


def answer(status: int, body: bytes = b"", **headers: str) -> Handler:
    """A whole answer."""

    async def answered(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answered


async def _cut_short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(b'[{"date":"2024-03-14T00:00:00Z","open":20.5,"hi')
    assert request.transport is not None
    request.transport.close()
    return response


async def _hung_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)
    return response


async def _flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    chunk = b"[" + b" " * (MIB - 1)
    with suppress(ConnectionError):
        for _ in range(50):
            await response.write(chunk)
    return response


def _told(status: int, advice: str, verdicts: set[Verdict], **headers: str) -> dict[str, Fault]:
    """The same status with its words in every form in which they come."""
    words = WORDS[status]
    bodies = {
        "no body": b"",
        "a page": f"<!DOCTYPE html><html><body><h1>{status}</h1>{words}</body></html>".encode(),
        "a sentence": words.encode(),
        "message": f'{{"message": "{words}"}}'.encode(),
        "error": f'{{"error": "{words}"}}'.encode(),
        "detail": f'{{"detail": "{words}"}}'.encode(),
        "detail that says error": f'{{"detail": "Error: {words}"}}'.encode(),
        "an error with a code": f'{{"error": {{"code": {status}, "message": "{words}"}}}}'.encode(),
        "status, code and message": f'{{"status": "error", "code": {status}, "message": "{words}", "data": []}}'.encode(),
        "an empty list": b"[]",
    }
    return {f"{status} with {form}": Fault(answer(status, body, **headers), verdicts, advice) for form, body in bodies.items()}


_LIMITED = {Verdict.RATE_LIMITED}
_ASK_STATUS = "look at the status before the body: `responses.error_for_status` has the verdict of each"
_LET = "let the errors of `http` through as they are"
_RETRY = "`responses.retry_after` reads the header; pass it on as `retry_at`"
_NO_DATA = "status 200 alone is no data: raise `responses.error_for_status` without the documented shape, never empty or not_found"

FAULTS: dict[str, Fault] = {
    **_told(401, _ASK_STATUS, {Verdict.UNAUTHORIZED}),
    **_told(402, _ASK_STATUS, {Verdict.PLAN_RESTRICTED}),
    **_told(403, _ASK_STATUS, NOT_ENTITLED),
    **_told(429, _ASK_STATUS, _LIMITED),
    **_told(500, _ASK_STATUS, {Verdict.SERVER_ERROR}),
    **_told(502, _ASK_STATUS, {Verdict.SERVER_ERROR}),
    **_told(503, _ASK_STATUS, {Verdict.SERVER_ERROR}, Retry_After="60"),
    **_told(504, _ASK_STATUS, {Verdict.SERVER_ERROR, Verdict.TIMEOUT}),
    "429 for so many seconds": Fault(answer(429, b"slow down", Retry_After="86400"), _LIMITED, _RETRY, TOMORROW),
    "429 until a date": Fault(
        answer(429, b"slow down", Retry_After=format_datetime(TOMORROW, usegmt=True)), _LIMITED, _RETRY, TOMORROW
    ),
    "429 until nobody knows": Fault(answer(429, b"slow down", Retry_After="in a while"), _LIMITED, _RETRY),
    "200 with an error": Fault(answer(200, b'{"error": "something went wrong"}'), {*BROKEN, Verdict.BAD_REQUEST}, _NO_DATA),
    "200 with a message": Fault(answer(200, b'{"message": "Internal error"}'), {*BROKEN, Verdict.BAD_REQUEST}, _NO_DATA),
    "200 with errors": Fault(
        answer(200, b'{"status": "error", "errors": [{"code": 17, "detail": "something went wrong"}]}'),
        {*BROKEN, Verdict.BAD_REQUEST},
        _NO_DATA,
    ),
    "200 with a page": Fault(answer(200, b"<html><body>Please enable JavaScript</body></html>"), BROKEN, _NO_DATA),
    "200 with a page that says it is JSON": Fault(
        answer(200, b"\n<html>Down for maintenance</html>", Content_Type="application/json"), BROKEN, _NO_DATA
    ),
    "200 with half an object": Fault(answer(200, b'{"data": {"AAPL": [{"o": 1'), BROKEN, _NO_DATA),
    "200 with bytes": Fault(answer(200, bytes(range(256))), BROKEN, _NO_DATA),
    "a body cut short": Fault(_cut_short, {Verdict.SERVER_ERROR}, _LET),
    "hung up": Fault(_hung_up, {Verdict.SERVER_ERROR}, _LET),
    "a body that is no gzip": Fault(answer(200, b"plain", Content_Encoding="gzip"), {Verdict.SERVER_ERROR}, _LET),
}
# These take their time or their memory, and try the HTTP client rather than the adapter: one dataset each will do.
SLOW_FAULTS: dict[str, Fault] = {
    "an answer that does not come": Fault(_hang, {Verdict.TIMEOUT}, _LET),
    "an answer that drips": Fault(_drip, {Verdict.TIMEOUT}, _LET),
    "an answer of 50 MiB": Fault(_flood, {Verdict.MALFORMED}, _LET),
    "a gzip bomb": Fault(
        answer(200, gzip.compress(bytes(50 * MIB)), Content_Encoding="gzip"),
        {Verdict.MALFORMED},
        _LET,
    ),
}


REDIRECTED = Fault(
    _hung_up,
    {*BROKEN, Verdict.UNAUTHORIZED, Verdict.RATE_LIMITED},
    "a redirect is no data, and is not followed: `responses.error_for_status`",
)


def redirect(to: str) -> Mapping[int, Handler]:
    """Every kind of redirect, to an address that nobody may go to."""
    return {status: answer(status, b"", Location=to) for status in (301, 302, 303, 307, 308)}
