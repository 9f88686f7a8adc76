"""Batches that fill up: what keeps coming is taken together, what stands alone or may not wait goes on."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from nats.aio.msg import Msg

from services.runtime.puller import BatchWait, wait_for_batch

FOR_EVER = 3600.0


class Basket:
    """Messages that wait, and to which others are added meanwhile."""

    def __init__(self, *sizes: int) -> None:
        self._messages = [_message(size) for size in sizes]

    @property
    def waiting(self) -> Sequence[Msg]:
        return self._messages

    async def fill(self, count: int, size: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0.001)
            self._messages.append(_message(size))


def _message(size: int) -> Msg:
    nobody: Any = None
    return Msg(_client=nobody, data=bytes(size))


def is_long(msg: Msg) -> bool:
    return len(msg.data) > 10


async def test_what_keeps_coming_is_waited_for_until_the_batch_is_full() -> None:
    basket = Basket(20)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(basket.fill(9, 20))
        await wait_for_batch(basket, 10, BatchWait(0.1, FOR_EVER, is_long))
        assert len(basket.waiting) == 10


async def test_what_stands_alone_goes_on_after_a_step() -> None:
    async with asyncio.timeout(10):
        await wait_for_batch(Basket(20), 10, BatchWait(0.0, FOR_EVER))


async def test_what_comes_for_ever_goes_on_in_time() -> None:
    basket = Basket(20)
    coming = asyncio.create_task(basket.fill(1_000_000, 20))
    async with asyncio.timeout(10):
        await wait_for_batch(basket, 1_000_000, BatchWait(0.02, 0.1))
    coming.cancel()
    assert len(basket.waiting) > 1


@pytest.mark.parametrize("sizes", [(5,), (20, 5, 20)])
async def test_nothing_waits_with_a_message_that_may_not(sizes: Sequence[int]) -> None:
    async with asyncio.timeout(10):
        await wait_for_batch(Basket(*sizes), 10, BatchWait(FOR_EVER, FOR_EVER, is_long))


async def test_a_full_batch_waits_for_nothing() -> None:
    async with asyncio.timeout(10):
        await wait_for_batch(Basket(20, 20), 2, BatchWait(FOR_EVER, FOR_EVER))
