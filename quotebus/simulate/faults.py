"""Random faults of a simulated vendor: the same sequence in every run with the same seed."""

import asyncio
import random
from enum import StrEnum

from aiohttp import web

from services.fetcher.provider import Reply

HANG_S = 600.0
PAGE = "<!DOCTYPE html><html><head><title>We will be back</title></head><body><h1>Down for maintenance</h1></body></html>"


class Fault(StrEnum):
    """ERROR: status 500. PAGE: a web page with status 200. CUT: an answer that breaks off. HANG: none for ten minutes."""

    ERROR = "error"
    PAGE = "page"
    CUT = "cut"
    HANG = "hang"


class Faults:
    """Draws a fault for this share of the requests."""

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._lots = random.Random(f"faults {seed}")

    def draw(self) -> Fault | None:
        """The fault of the next request, if it has one."""
        return self._lots.choice(list(Fault)) if self._lots.random() < self._rate else None


async def inject(fault: Fault, request: web.Request, reply: Reply) -> web.StreamResponse:
    """Answer so instead."""
    if fault is Fault.HANG:
        await asyncio.sleep(HANG_S)
    if fault is Fault.PAGE:
        return web.Response(text=PAGE, content_type="text/html")
    if fault is not Fault.CUT:
        return web.Response(status=500, text="Internal Server Error")
    response = web.StreamResponse(status=reply.status, headers=dict(reply.headers))
    response.content_length = len(reply.body) + 1
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    # Hanging up is what breaks it off: the length that was told is not reached.
    if request.transport is not None:
        request.transport.close()
    return response
