"""Keeps processes running: a service as a child process, and what is done when it, or a server, dies."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quotebus.embedded import ChildProcess, ServerError, free_port, is_free
from quotebus.embedded.ports import reply
from services.runtime.settings.secret_scope import environment_for

FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_AFTER_S = 0.5, 30.0, 60.0
_READY_TIMEOUT_S = 20.0
_READY_QUESTION = b"GET /readyz HTTP/1.0\r\n\r\n"

Say = Callable[[str], None]


class ServiceProcess(ChildProcess):
    """One service, told by its environment where the servers are and on which port it answers /readyz.

    It gets no secret that it does not use.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, log)
        self._command = command
        self._environment = environment
        self._port = 0

    @property
    def url(self) -> str:
        """Base URL of /livez, /readyz and /metrics."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start it, and return when it is ready, or still alive after 20 s.

        Raises:
            ServerError: it died first.
        """
        if not self._port or not is_free(self._port):
            self._port = free_port()
        variables = {**os.environ, **self._environment, "QUOTEBUS_HEALTH__PORT": str(self._port), **self._variables()}
        await self._spawn(self._command, environment_for(self.name, variables), None)
        try:
            if not await self._answered(_READY_TIMEOUT_S) and not self.running:
                raise ServerError(f"{self.name} {how_it_ended(await self.ended())}: {self.log_tail()}")
        except asyncio.CancelledError:
            await self.kill()
            raise

    def _variables(self) -> dict[str, str]:
        """Further environment variables of the service, read at each start."""
        return {}

    async def _answers(self) -> bool:
        return (await reply(self._port, _READY_QUESTION, 12)).endswith(b" 200")


class HttpServiceProcess(ServiceProcess):
    """The service that everybody else talks to, at an address that it keeps. Programs of this machine need no token there."""

    http_port = 0

    @property
    def http_url(self) -> str:
        """Base URL of the service's HTTP API."""
        return f"http://127.0.0.1:{self.http_port}"

    def _variables(self) -> dict[str, str]:
        if not is_free(self.http_port):
            raise ServerError(f"port {self.http_port} is taken: stop what listens there, or give {self.name} another port or 0")
        return {"QUOTEBUS_GATEWAY__PORT": str(self.http_port), "QUOTEBUS_GATEWAY__TRUST_LOOPBACK": "true"}


async def keep_running(part: ChildProcess, say: Say, started: Callable[[ChildProcess, float], None]) -> None:
    """Start a part again whenever it ends, waiting longer each time until it has been steady for a while."""
    wait_s, began, trouble = FIRST_WAIT_S, time.monotonic(), ""
    while True:
        status = await part.ended()
        if time.monotonic() - began > STEADY_AFTER_S:
            wait_s = FIRST_WAIT_S
        trouble = trouble or f"{part.name} {how_it_ended(status)}: {part.log_tail()}"
        say(f"{trouble}; it starts again in {wait_s:g} s")
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        began, trouble = time.monotonic(), ""
        try:
            await part.start()
        except (ServerError, OSError) as error:
            trouble = str(error)
        else:
            started(part, time.monotonic() - began)


def how_it_ended(status: int) -> str:
    """In words, by exit status."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
