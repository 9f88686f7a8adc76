"""A child process: started until it answers, watched, stopped in order or killed; it does not outlive us."""

import asyncio
import contextlib
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from quotebus.embedded.child_setup import die_with_parent

_LOG_KEPT_BYTES = 16 * 2**20
_SAID_BYTES = 4096


class ServerError(RuntimeError):
    """A server or a service cannot be had; the message says why and what to do."""


class ChildProcess(ABC):
    """One program with its output in `log`. Start it from the main thread: it ends when the thread that started it ends."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    orphan_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """URL of the server, with user and password where it has them."""

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ServerError: it does not run.
        """
        if not self.running or self._process is None:
            raise ServerError(f"{self.name} does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the process is alive."""
        return self._process is not None and self._process.returncode is None

    @abstractmethod
    async def start(self) -> None:
        """Start it, a second time at the same address if possible, and return when it answers.

        Raises:
            ServerError: it did not come up.
        """

    async def stop(self, timeout_s: float = 3.0) -> None:
        """End it in order, by force after `timeout_s`."""
        if self.running and self._process is not None:
            self._signal(self.stop_signal)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()

    async def kill(self) -> None:
        """End it at once, as kill -9 does; `start` brings it back."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            await self._process.wait()

    async def ended(self) -> int:
        """Wait until the process is gone; its exit status, or less than 0 for the signal that killed it."""
        return await self._process.wait() if self._process is not None else 0

    def log_tail(self) -> str:
        """The last line it wrote."""
        if not self.log.exists():
            return "it said nothing"
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _SAID_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    async def _spawn(self, command: Sequence[str], environment: Mapping[str, str], folder: str | None) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_KEPT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as output:
            # A session of its own: a Ctrl-C at the terminal shall reach us, and each child then stops in its turn.
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=environment,
                start_new_session=True,
                preexec_fn=self._birth(),
            )

    def _birth(self) -> Callable[[], None]:
        return die_with_parent(self.orphan_signal)

    async def _answered(self, timeout_s: float) -> bool:
        """Wait until it answers; false when the time is up, or it died first."""
        deadline = time.monotonic() + timeout_s
        while self.running and time.monotonic() < deadline:
            if await self._answers():
                return True
            await asyncio.sleep(0.01)
        return False

    @abstractmethod
    async def _answers(self) -> bool:
        """True if the server accepts requests."""

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
