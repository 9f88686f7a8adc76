"""Waiting that a stop ends."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def or_stop(stop: asyncio.Event, waiting: Coroutine[Any, Any, T]) -> T | None:
    """What the coroutine gives, or None when stopped first: it is cancelled then."""
    getting = asyncio.create_task(waiting)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([getting, stopping], return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        for task in (getting, stopping):
            task.cancel()
        await asyncio.gather(getting, stopping, return_exceptions=True)


async def sleep_or_stop(stop: asyncio.Event, seconds: float) -> None:
    """Return after so many seconds, or when stopped."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
