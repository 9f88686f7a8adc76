"""Patience until somebody has made the streams."""

import asyncio

import structlog
from nats.js import JetStreamContext
from nats.js.errors import APIError

log = structlog.get_logger()


async def wait_until_provisioned(js: JetStreamContext, streams: list[str]) -> None:
    """Return when these streams exist; until then say once what is missing and who makes it."""
    said = False
    while missing := [name for name in streams if not await _exists(js, name)]:
        if not said:
            log.warning("streams_missing", streams=missing, action="run `quotebus migrate`; waiting for it")
            said = True
        await asyncio.sleep(0.5)


async def _exists(js: JetStreamContext, stream: str) -> bool:
    try:
        await js.stream_info(stream)
    except (APIError, TimeoutError):
        return False
    return True
