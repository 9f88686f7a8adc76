"""An event loop whose time is not ours: where it would wait, it jumps to when there is something to do."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time begins at `began` and stands still while anything runs."""

    def __init__(self, began: datetime) -> None:
        self._began, self._passed = began, 0.0
        super().__init__(_Leaping(self))

    def time(self) -> float:
        return self._passed

    def now(self) -> datetime:
        """The instant it is."""
        return self._began + timedelta(seconds=self._passed)

    def leap(self, seconds: float) -> None:
        """Let so much time have passed. Never less than a tick of the loop's own, or it would turn on the spot."""
        self._passed += max(seconds, 1e-6)


class _Leaping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits for something that never comes")
        if timeout > 0:
            self._loop.leap(timeout)
        return super().select(0)


def run_from(began: datetime, main: Coroutine[Any, Any, T]) -> T:
    """What the coroutine gives that lives from `began` on, however long it takes there."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(began)) as runner:
        return runner.run(main)


def virtual_now() -> datetime:
    """The instant it is in the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.now().astimezone(UTC)
