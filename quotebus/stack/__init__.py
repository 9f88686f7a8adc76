"""The whole system on one machine: servers and services as child processes, started, kept running and stopped in order."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from quotebus.embedded import (
    ChildProcess,
    EmbeddedServer,
    FolderLock,
    NatsServer,
    PostgresServer,
    RedisServer,
    ServerError,
    is_free,
)
from quotebus.embedded.ports import port_or_free
from quotebus.stack.endpoints import FILE_NAME, Endpoints
from quotebus.stack.supervisor import HttpServiceProcess, Say, ServiceProcess, keep_running

STOP_WITHIN_S = 4.5
# One key press may come twice: from the terminal, and from a program that started us and passes it on.
_ECHO_S = 0.3
# -P: a folder named `services` where the user happens to be must not be taken for ours.
SERVICES: Mapping[str, Sequence[str]] = {
    name: (sys.executable, "-P", "-m", f"services.{name}") for name in ("scheduler", "fetcher", "cacher", "gateway")
}
GATEWAY = "gateway"
# Only where there is somebody to notify.
NOTIFIER: Mapping[str, Sequence[str]] = {"notifier": (sys.executable, "-P", "-m", "services.notifier")}


@dataclass(frozen=True)
class StackOptions:
    """Options of the stack: its folder, ports and services. A port of None means the usual one if it is free, else any; 0 any.

    `http_port`: the gateway's; `usual_http_port`: what the settings say of it.
    """

    data: Path = Path(".quotebus")
    nats_port: int | None = None
    postgres_port: int | None = None
    redis_port: int | None = None
    http_port: int | None = None
    usual_http_port: int = 8088
    services: Mapping[str, Sequence[str]] = field(default_factory=lambda: SERVICES)


Step = Callable[[Endpoints], Coroutine[None, None, None]]


async def up(options: StackOptions, *, prepare: Step, meanwhile: Step, say: Say = print) -> None:
    """Run everything until SIGINT, SIGTERM or SIGHUP, then stop it in order; a second signal ends it at once.

    `prepare` runs when the servers answer, before any service starts; `meanwhile` runs once all are started, until the end.

    Raises:
        FolderInUseError: a living process uses the data folder.
        ServerError: a server did not come up.
    """
    data = options.data.resolve()
    with FolderLock(data / "up.lock"), _signals() as (asked, insisted):
        stack = _Stack(options, say)
        running = asyncio.ensure_future(stack.run(prepare, meanwhile))
        try:
            await _first_of(running, asked.wait())
        finally:
            await _first_of(stack.stop(running), insisted.wait(), timeout_s=STOP_WITHIN_S)
            await stack.kill()
    if running.done() and not running.cancelled() and (error := running.exception()) is not None:
        raise _first_cause(error)


class _Stack:
    def __init__(self, options: StackOptions, say: Say) -> None:
        self._data, self._say = options.data.resolve(), say
        self._nats = NatsServer(self._data, port=options.nats_port)
        self._postgres = PostgresServer(self._data, port=options.postgres_port)
        self._redis = RedisServer(self._data, port=options.redis_port)
        self._servers: tuple[EmbeddedServer, ...] = (self._nats, self._postgres, self._redis)
        self._commands = options.services
        self._services: list[ServiceProcess] = []
        self._gateway_port = options.http_port
        self._hoped_for = 0 if options.http_port == 0 else options.usual_http_port

    async def run(self, prepare: Step, meanwhile: Step) -> None:
        if self._gateway_port and not is_free(self._gateway_port):
            raise ServerError(f"port {self._gateway_port} is taken: stop what listens there, or give {GATEWAY} another port or 0")
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(self._start(server))
        began = time.monotonic()
        await prepare(self._endpoints())
        self._ready("schema", "streams and tables are as they should be", time.monotonic() - began)
        environment = self._endpoints().environment()
        for name, command in self._commands.items():
            kind = HttpServiceProcess if name == GATEWAY else ServiceProcess
            service = kind(name, command, self._data / "log" / f"{name}.log", environment)
            if isinstance(service, HttpServiceProcess):
                service.http_port = self._gateway_port or port_or_free(self._hoped_for)
            self._services.append(service)
        # One that fails is tried again below: the others are of use without it.
        for outcome in await asyncio.gather(*map(self._start, self._services), return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ServerError):
                raise outcome
        self._endpoints().write(self._data)
        async with asyncio.TaskGroup() as group:
            for part in (*self._servers, *self._services):
                group.create_task(keep_running(part, self._say, self._started_again))
            group.create_task(meanwhile(self._endpoints()))

    async def stop(self, running: asyncio.Future[None]) -> None:
        deadline = time.monotonic() + STOP_WITHIN_S
        (self._data / FILE_NAME).unlink(missing_ok=True)
        running.cancel()
        await asyncio.wait([running])
        await asyncio.gather(*(service.stop(2.0) for service in self._services))
        await self._redis.stop(0.5)
        # All that is left but a moment: its checkpoint takes as long as there is to write.
        await self._postgres.stop(max(0.5, deadline - time.monotonic() - 0.6))
        await self._nats.stop(0.5)

    async def kill(self) -> None:
        """End at once whatever still runs, and let the data go."""
        await asyncio.gather(*(part.stop(0) for part in (*self._services, *self._servers)))

    async def _start(self, part: ChildProcess) -> None:
        began = time.monotonic()
        await part.start()
        self._ready(part.name, _where(part), time.monotonic() - began)

    def _started_again(self, part: ChildProcess, seconds: float) -> None:
        self._ready(part.name, _where(part), seconds)
        self._endpoints().write(self._data)

    def _ready(self, name: str, where: str, seconds: float) -> None:
        self._say(f"{name:<10} ready  {where}  {seconds:.1f} s")

    def _endpoints(self) -> Endpoints:
        health = {service.name: service.url for service in self._services}
        http = next((service.http_url for service in self._services if isinstance(service, HttpServiceProcess)), None)
        return Endpoints(self._nats.url, self._postgres.url, self._redis.url, http, health)


def _where(part: ChildProcess) -> str:
    """Address of a server for display, without its password."""
    parts = urlsplit(part.http_url if isinstance(part, HttpServiceProcess) else part.url)
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=f"{user}{parts.hostname}:{parts.port}").geturl()


@contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Two events: set by the first signal to end, and by a later one."""
    asked, insisted = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    heard_at = 0.0
    # Under nohup the terminal's going away is no reason to end.
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    caught = [signal.SIGINT, signal.SIGTERM, *hangup]

    def on_signal() -> None:
        nonlocal heard_at
        if not asked.is_set():
            heard_at = loop.time()
            asked.set()
        elif loop.time() - heard_at > _ECHO_S:
            insisted.set()

    for number in caught:
        loop.add_signal_handler(number, on_signal)
    try:
        yield asked, insisted
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


async def _first_of(*awaitables: Awaitable[object], timeout_s: float | None = None) -> None:
    """Return when one of them is done, or the time is up; those that are coroutines are cancelled then."""
    own = [asyncio.ensure_future(one) for one in awaitables]
    try:
        await asyncio.wait(own, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left = [task for task, given in zip(own, awaitables, strict=True) if task is not given]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
