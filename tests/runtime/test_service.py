"""The parts of a service end when it does, whatever they do with the news of it."""

import asyncio
from contextlib import suppress

from services.runtime.health import Health
from services.runtime.service import supervise


async def test_a_service_without_a_part_stops_in_order() -> None:
    stop = asyncio.Event()
    async with supervise(Health("test"), {}, stop):
        assert not stop.is_set()
    assert stop.is_set()


async def test_a_part_that_swallows_its_cancellation_is_told_again() -> None:
    told = 0

    async def deaf() -> None:
        nonlocal told
        while told < 2:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            told += 1

    async with asyncio.timeout(10), supervise(Health("test"), {"deaf": deaf()}, None):
        await asyncio.sleep(0)
    assert told == 2
