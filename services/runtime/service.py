"""Service process: starts from settings, supervises its parts, stops in order, exits with a telling code."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import nats.errors
import structlog
from faststream import FastStream
from faststream.nats import NatsBroker
from faststream.security import SASLPlaintext

from services.runtime.bus import EXIT_CONNECTION_CLOSED, connection_options
from services.runtime.health import STATUS_ASK, Health
from services.runtime.logs import configure_logging, register_secrets
from services.runtime.settings import Settings, SettingsError, load_settings, secrets_of

EXIT_BAD_SETTINGS = 78
EXIT_PART_FAILED = 1
STOP_WITHIN_S = 3.5
CANCEL_AGAIN_S = 0.5
GARBAGE_THRESHOLD = 50_000
T = TypeVar("T")

log = structlog.get_logger()


class StartRefusedError(Exception):
    """The service cannot work as it is set up; the message says what to do. The process exits with 78."""


class PartFailedError(Exception):
    """A part of the service ended with an error, which is its cause."""


def request_reply_broker(settings: Settings, health: Health) -> NatsBroker:
    """FastStream's own connection of a service: carries request-reply, and answers `status.ask` with the service's health."""
    # The critical path has its own connection and puller: this one may be slow or closed without harm to a message.
    options = connection_options(settings.nats, f"{health.service}-light")
    # FastStream takes these two in a form of its own.
    user, password = options.pop("user", None), options.pop("password", "")
    security = SASLPlaintext(user, password) if user else None
    broker = NatsBroker(**options, security=security, graceful_timeout=2, logger=None)

    @broker.subscriber(STATUS_ASK)
    async def answer_status() -> dict[str, object]:
        return health.report()

    return broker


@asynccontextmanager
async def supervise(
    health: Health, parts: Mapping[str, Coroutine[Any, Any, None]], stop: asyncio.Event | None
) -> AsyncIterator[None]:
    """Run the parts while the block runs. One that ends with an error takes the process down: a service never lives half dead.

    Afterwards `stop` is set and the parts get their time to end; parts without a `stop` are cancelled.
    """
    running = {name: asyncio.create_task(part, name=name) for name, part in parts.items()}

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("part_failed", part=task.get_name(), error=repr(error), action="the process exits", exc_info=error)
            health.ready(task.get_name(), False, repr(error))
            os.kill(os.getpid(), signal.SIGTERM)

    for task in running.values():
        task.add_done_callback(ended)
    try:
        yield
    finally:
        if stop is not None:
            stop.set()
            if running:  # there may be nobody to notify, say
                await asyncio.wait(running.values(), timeout=STOP_WITHIN_S)
        await _cancel(running.values())
        ends = await asyncio.gather(*running.values(), return_exceptions=True)
        if faults := [end for end in ends if isinstance(end, Exception)]:
            raise PartFailedError from faults[0]


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and return when all have ended. Again and again, as libraries that use `asyncio.wait_for` may swallow one."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


async def until_stopped(stop: asyncio.Event, waiting: Coroutine[Any, Any, T]) -> T | None:
    """Run a coroutine until it ends or the service stops: then it is cancelled, and there is no result."""
    getting = asyncio.create_task(waiting)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([getting, stopping], return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        for task in (getting, stopping):
            task.cancel()
        await asyncio.gather(getting, stopping, return_exceptions=True)


async def sleep_until_stopped(stop: asyncio.Event, seconds: float) -> None:
    """Sleep for so many seconds, or until the service stops."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


class ServiceApp(FastStream):
    """FastStream's application, which also ends when it is told to before it has started: while it waits for its servers, say."""

    _start_waits: asyncio.Task[Any] | None = None

    def exit(self) -> None:
        """Stop, now."""
        super().exit()
        if self._start_waits is not None:
            self._start_waits.cancel()

    async def run(self, *args: Any, **options: Any) -> None:
        """Run until told to stop."""
        self._start_waits = asyncio.current_task()
        self.after_startup(self._started)
        await super().run(*args, **options)

    async def _started(self) -> None:
        self._start_waits = None


def run_service(service: str, build: Callable[[Settings], FastStream]) -> None:
    """Run a service until SIGTERM or SIGINT; exit 0 after an orderly stop, 78 for bad settings."""
    try:
        settings = load_settings(service=service)
        configure_logging(settings.log, service)
        register_secrets(secrets_of(settings))
        app = build(settings)
    except (SettingsError, StartRefusedError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(EXIT_BAD_SETTINGS) from None
    _run(app)


def _run(app: FastStream) -> None:
    # What start-up made stays; and a batch of bars is thousands of objects that all die young: no reason to look at everything.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    runner = asyncio.run
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415  (an extra)

        runner = uvloop.run
    try:
        runner(app.run())
    except asyncio.CancelledError:
        log.info("stopped_before_it_started")
    except StartRefusedError as error:
        log.critical("refused_to_start", error=str(error))
        raise SystemExit(EXIT_BAD_SETTINGS) from None
    except nats.errors.ConnectionReconnectingError:
        log.info("stopped_while_disconnected")
    except nats.errors.ConnectionClosedError:
        raise SystemExit(EXIT_CONNECTION_CLOSED) from None
    except PartFailedError:
        raise SystemExit(EXIT_PART_FAILED) from None
