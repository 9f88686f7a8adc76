"""Prices as server-sent events: each with its number on the stream, from which a reader goes on after a break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Literal

import msgspec
from aiohttp import web
from nats.aio.msg import Msg
from prometheus_client import Gauge

from services.gateway.errors import Problem, field_problem
from services.gateway.event_stream import follow_events, price_pattern
from services.gateway.request import parse_query
from services.gateway.routing import Gateway, Route
from services.runtime.follow import Batch, MissedRange

STREAMS = Gauge("quotebus_http_streams", "Event streams that are open.")
# Something is sent at least so often, for proxies that close what is silent, and for us to notice who has gone.
_BEAT_S = 15.0
_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_LARGEST = 2**63 - 1


class StreamQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`subject`: a pattern. `from`: `last` begins with the last event of each subject. `last_event_id`: as the header."""

    subject: str = "quote.*"
    since: Literal["now", "last"] = msgspec.field(default="now", name="from")
    last_event_id: str | None = None


async def stream_prices(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Events of a pattern, as they come."""
    query = parse_query(request, StreamQuery)
    events = follow_events(gateway.bus.nc, price_pattern(query.subject), query.since, _after(request, query))
    most = gateway.settings.gateway.streams
    if len(gateway.streams) >= most:
        raise Problem(503, "too_many_streams", f"{most} event streams are open: try again later, or raise `streams` of [gateway]")
    async with aclosing(events):
        # Before the answer begins: a reader who sees it begin misses nothing from then on.
        first = await anext(events)
        return await _answer(gateway, request, first, events)


async def _answer(gateway: Gateway, request: web.Request, first: Batch, events: AsyncIterator[Batch]) -> web.StreamResponse:
    answer = web.StreamResponse(headers=_HEADERS)
    task = asyncio.current_task()
    assert task is not None
    gateway.streams.add(task)
    STREAMS.inc()
    try:
        await answer.prepare(request)
        await answer.write(b"retry: 1000\n\n")
        await _send(_chained(first, events), request, answer, gateway.settings.gateway.slow_client_s)
    except (OSError, TimeoutError):
        # Who has gone needs nothing; who takes nothing is cut off, and goes on later from the last number it has.
        if request.transport is not None:
            request.transport.abort()
    finally:
        gateway.streams.discard(task)
        STREAMS.dec()
    return answer


async def _send(events: AsyncIterator[Batch], request: web.Request, answer: web.StreamResponse, patience_s: float) -> None:
    clock = asyncio.get_running_loop().time
    said_at = clock()
    async for batch in events:
        if request.transport is None or request.transport.is_closing():
            return
        piece = _piece(batch)
        if not piece and clock() - said_at < _BEAT_S:
            continue
        async with asyncio.timeout(patience_s):
            await answer.write(piece or b":\n\n")
        said_at = clock()


async def _chained(first: Batch, rest: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
    yield first
    async for batch in rest:
        yield batch


def _piece(batch: Batch) -> bytes:
    return _gap(batch.missed) if batch.missed is not None else b"".join(map(_frame, batch.messages))


def _frame(msg: Msg) -> bytes:
    lines = msg.data.splitlines() or [b""]
    return b"id: %d\n%s\n\n" % (msg.metadata.sequence.stream, b"\n".join(b"data: " + line for line in lines))


def _gap(gap: MissedRange) -> bytes:
    """Its number is that of the last one missing, so that a reader does not ask for it again."""
    return b'event: gap\nid: %d\ndata: {"first":%d,"last":%d}\n\n' % (gap.last, gap.first, gap.last)


def _after(request: web.Request, query: StreamQuery) -> int | None:
    text = request.headers.get("Last-Event-ID") or query.last_event_id
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) > _LARGEST:
        raise field_problem(400, "last_event_id", f"{text[:80]!r} is no number of an event")
    return int(text)


ROUTES = (
    Route(
        "GET", "/stream", stream_prices, "Price events as they come (SSE).", "read", {200: None}, query=StreamQuery,
        media=("text/event-stream",), headers=("Last-Event-ID",),
    ),
)  # fmt: skip
