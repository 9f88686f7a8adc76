"""Letting a batch fill up while more of it keeps coming: a transaction costs as much as many events."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from nats.aio.msg import Msg


class Filling(Protocol):
    """What fills up: a `Puller`."""

    @property
    def waiting(self) -> Sequence[Msg]: ...


def any_message(_msg: Msg) -> bool:
    """Whether a message may wait, where all may."""
    return True


async def linger(
    puller: Filling, batch: int, step_s: float, at_most_s: float, may_wait: Callable[[Msg], bool] = any_message
) -> None:
    """Return when so many wait, none came for `step_s`, one waits that may not, or it took `at_most_s`."""
    clock = asyncio.get_running_loop().time
    until, before = clock() + at_most_s, 0
    while before < len(puller.waiting) < batch and clock() < until and all(map(may_wait, puller.waiting)):
        before = len(puller.waiting)
        await asyncio.sleep(step_s)
