"""Storing whatever happens: Postgres is waited for as long as it takes, and what can never be stored does not stop the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import nats.errors
import structlog
from nats.aio.msg import Msg

from services.runtime.health import Health
from services.runtime.postgres import POSTGRES_TROUBLE

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
# What the data is to blame for: it would fail for ever. Anything else is Postgres's trouble and passes.
FAULTY_DATA = (asyncpg.DataError, asyncpg.CheckViolationError, asyncpg.NotNullViolationError, asyncpg.ProgramLimitExceededError)
# Two writers met; nothing is wrong with the server.
_CROSSED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError)
_PART = "postgres"
E = TypeVar("E")
W = TypeVar("W")

log = structlog.get_logger()


class StoppedError(Exception):
    """The process ends while Postgres does not answer."""


class Patience:
    """Tries until Postgres takes a batch, or until the process is to stop."""

    def __init__(self, health: Health, stop: asyncio.Event) -> None:
        self._health = health
        self._stop = stop

    async def store(self, events: Sequence[E], write: Callable[[Sequence[E]], Awaitable[W]]) -> W:
        """Write these events and give what `write` gives.

        Raises:
            StoppedError: told to stop before it was possible.
            asyncpg.DataError (and the like): one of the events can never be stored.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                written = await write(events)
            except FAULTY_DATA:
                raise
            except POSTGRES_TROUBLE as error:
                if not isinstance(error, _CROSSED):
                    self._unavailable(str(error) or type(error).__name__)
            else:
                self._available()
                return written
            try:
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
            except TimeoutError:
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                raise StoppedError

    async def store_each(
        self,
        deliveries: Sequence[tuple[Msg, E]],
        write: Callable[[Sequence[E]], Awaitable[W]],
        bury: Callable[[Msg, str], Awaitable[None]],
    ) -> list[W]:
        """Write all at once or, if one of them spoils that, one by one, and bury those that spoil it."""
        if not deliveries:
            return []
        try:
            return [await self.store([event for _, event in deliveries], write)]
        except StoppedError:
            raise
        except Exception as error:  # whatever is wrong with one must not stop the others
            if len(deliveries) == 1:
                await bury(deliveries[0][0], f"cannot be stored: {error or type(error).__name__}")
                return []
        return [written for delivery in deliveries for written in await self.store_each([delivery], write, bury)]

    def _unavailable(self, what: str) -> None:
        if self._health.parts.get(_PART, (True, ""))[0]:
            log.warning("postgres_unavailable", error=what, action="trying on; nothing is acknowledged meanwhile")
        self._health.ready(_PART, False, what)

    def _available(self) -> None:
        if not self._health.parts.get(_PART, (True, ""))[0]:
            log.info("postgres_available")
        self._health.ready(_PART, True)


async def give_back(messages: Sequence[Msg], delay_s: float | None = None) -> None:
    """Let those that are not acknowledged be delivered again, at once or later."""
    for msg in messages:
        if not msg.is_acked:
            try:
                await msg.nak(delay=delay_s)
            except nats.errors.Error as error:
                log.debug("not_given_back", subject=msg.subject, error=str(error) or type(error).__name__)
