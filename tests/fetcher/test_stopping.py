"""Whoever waits ends when he is cancelled, also where what he waited for comes at the same moment."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.fetcher.tasks.orphans import OrphanReaper
from services.runtime.bus import Bus
from services.runtime.service import sleep_until_stopped, until_stopped

WAITS: dict[str, Callable[[asyncio.Event], Awaitable[Any]]] = {
    "sleep_until_stopped": lambda event: sleep_until_stopped(event, 60),
    "until_stopped": lambda event: until_stopped(event, asyncio.sleep(60)),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
async def test_a_cancellation_is_not_lost_as_the_event_comes(wait: Callable[[asyncio.Event], Awaitable[Any]]) -> None:
    async def forever() -> None:
        while True:
            await wait(event)
            event.clear()

    event = asyncio.Event()
    await ended_as(asyncio.create_task(forever()), event)


async def test_a_sweeper_that_is_stopped_as_a_circuit_opens_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: OrphanReaper) -> int:
        return 0

    monkeypatch.setattr(OrphanReaper, "sweep", nothing)
    sweeper = OrphanReaper(Bus(None, None), {}, None, None)  # type: ignore[arg-type]
    await ended_as(asyncio.create_task(sweeper.run()), sweeper._opened)


async def ended_as(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Cancel a task in the moment in which its event comes; it has to end."""
    await asyncio.sleep(0.05)
    event.set()
    # The event wakes a waiter that is a turn away from the task itself.
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert task.cancelled()
