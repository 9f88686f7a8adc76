"""Writes of batches to Postgres, which is waited for as long as it takes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import structlog

from services.runtime.consumer import ShutdownError
from services.runtime.health import Health
from services.runtime.postgres import POSTGRES_UNAVAILABLE
from services.runtime.service import sleep_until_stopped

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
# What the data is to blame for: it would fail for ever. Anything else is Postgres's trouble and passes.
FAULTY_DATA = (asyncpg.DataError, asyncpg.CheckViolationError, asyncpg.NotNullViolationError, asyncpg.ProgramLimitExceededError)
# Two writers met; nothing is wrong with the server.
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError)
_PART = "postgres"
E = TypeVar("E")
W = TypeVar("W")

log = structlog.get_logger()


class BatchWriter:
    """Repeats the write of a batch until Postgres takes it, or until the process is to stop."""

    def __init__(self, health: Health, stop: asyncio.Event) -> None:
        self._health = health
        self._stop = stop

    async def write(self, events: Sequence[E], store: Callable[[Sequence[E]], Awaitable[W]]) -> W:
        """Write these events with `store` and give its result.

        Raises:
            ShutdownError: told to stop before it was possible.
            asyncpg.DataError (and the like): one of the events can never be stored.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                written = await store(events)
            except FAULTY_DATA:
                raise
            except POSTGRES_UNAVAILABLE as error:
                if not isinstance(error, _CONFLICTS):
                    self._unavailable(str(error) or type(error).__name__)
            else:
                self._available()
                return written
            await sleep_until_stopped(self._stop, pause_s)
            if self._stop.is_set():
                raise ShutdownError
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _unavailable(self, what: str) -> None:
        if self._health.parts.get(_PART, (True, ""))[0]:
            log.warning("postgres_unavailable", error=what, action="trying on; nothing is acknowledged meanwhile")
        self._health.ready(_PART, False, what)

    def _available(self) -> None:
        if not self._health.parts.get(_PART, (True, ""))[0]:
            log.info("postgres_available")
        self._health.ready(_PART, True)
