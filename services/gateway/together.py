"""Many questions answered with few: those that come while an answer is under way are asked together, each only once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")
MOST_AT_ONCE = 64


class Together(Generic[V]):
    """Asks `ask` for many keys at once on behalf of many who want one each."""

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._ask = ask
        self._waiting: dict[str, asyncio.Future[V | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, key: str) -> V | None:
        """The answer for this key; none when there is none.

        Raises:
            Exception: what `ask` raised.
        """
        loop = asyncio.get_running_loop()
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = loop.create_future()
            if self._asking is None:
                self._asking = loop.create_task(self._work())
        # One who goes away takes the answer from nobody else.
        return await asyncio.shield(future)

    async def _work(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:MOST_AT_ONCE]
                futures = [self._waiting.pop(key) for key in keys]
                try:
                    found = await self._ask(keys)
                except Exception as error:
                    _fail(futures, error)
                else:
                    for key, future in zip(keys, futures, strict=True):
                        future.set_result(found.get(key))
        finally:
            self._asking = None


def _fail(futures: Sequence["asyncio.Future[V | None]"], error: Exception) -> None:
    for future in futures:
        future.set_exception(error)
        # Those who wait see it; if all have gone away, nobody needs to.
        future.exception()
