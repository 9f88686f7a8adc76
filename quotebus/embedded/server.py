"""A server on a loopback port with its data in a folder that nobody else uses meanwhile."""

import asyncio
from abc import abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from quotebus.embedded.child_setup import plain_environment
from quotebus.embedded.folder_lock import FolderLock
from quotebus.embedded.ports import free_port, is_free, port_or_free
from quotebus.embedded.process import ChildProcess, ServerError

_TRIES = 6


class EmbeddedServer(ChildProcess):
    """One server, its data in `folder/<kind>`, its output in `folder/log/<kind>.log`.

    A port of 0 means any free one, none means the usual one if it is free and else any; it is chosen at the first start
    and kept. `async with` starts and stops it.
    """

    kind: ClassVar[str]
    usual_port: ClassVar[int]
    start_timeout_s: ClassVar[float] = 20.0

    def __init__(self, folder: Path, *, port: int | None = 0) -> None:
        self.folder = folder.resolve()
        super().__init__(self.kind, self.folder / "log" / f"{self.kind}.log")
        self.data = self.folder / self.kind
        self.port = port or 0
        self._hoped_for = self.usual_port if port is None else 0
        self._keeps_port = bool(port)
        self._lock: FolderLock | None = None

    async def start(self) -> None:
        """Start it, the second time on the same port and data, and return when it answers.

        Raises:
            FolderInUseError: a living process uses the data.
            ServerError: it is not installed, or did not come up.
        """
        if self.running:
            return
        self._lock = self._lock or FolderLock(self.folder / f"{self.kind}.lock")
        try:
            self.log.parent.mkdir(exist_ok=True)
            await self._prepare()
            await self._launch()
        except BaseException:
            await self.kill()
            self._release()
            raise

    async def stop(self, timeout_s: float = 3.0) -> None:
        """End it in order, by force after `timeout_s`; its data may then be used by another process."""
        await super().stop(timeout_s)
        self._release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _prepare(self) -> None:
        """Make the data folder and all that must be in it; runs before every start."""
        self.data.mkdir(mode=0o700, exist_ok=True)

    @abstractmethod
    def _command(self) -> list[str]:
        """Program and arguments, for the port as it now is."""

    async def _launch(self) -> None:
        # More than one try, for two reasons that pass: somebody took the free port first, or a killed predecessor's
        # own children are still on their way out.
        for attempt in range(_TRIES):
            await asyncio.sleep(0.1 * attempt)
            if not self._keeps_port:
                self.port = free_port() if attempt else port_or_free(self._hoped_for)
            if is_free(self.port) and await self._came_up():
                self._keeps_port = True
                return
        if not is_free(self.port):
            raise ServerError(f"port {self.port} is taken: stop what listens there, or give {self.name} another port or 0")
        raise ServerError(f"{self.name} did not start: {self.log_tail()} (all of it: {self.log})")

    async def _came_up(self) -> bool:
        await self._spawn(self._command(), plain_environment(), "/")
        if await self._answered(self.start_timeout_s):
            return True
        if self.running:
            raise ServerError(f"{self.name} gave no answer within {self.start_timeout_s:.0f} s; see {self.log}")
        return False

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
