"""NATS connection of a service: reconnects for ever, publishes with an id and an ack, waits for its streams."""

import asyncio
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from contracts.message import Message, encode
from services.runtime.settings import NatsSettings

EXIT_CONNECTION_CLOSED = 70
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_LAST_SEQUENCE = "Nats-Expected-Last-Sequence"
EXPECTED_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
# JetStream's error codes, and the texts that tell apart what has the same code (10077: a subject's limit, or the stream's).
WRONG_LAST_SEQUENCE = 10071
WINDOW_FULL = "maximum messages per subject exceeded"
STREAM_FULL = "maximum messages exceeded"
_UNANSWERED = (nats.errors.TimeoutError, nats.errors.NoRespondersError, NoStreamResponseError, ServiceUnavailableError)

MAX_CLOCK_SKEW = timedelta(seconds=1)

log = structlog.get_logger()


@dataclass
class Bus:
    """One connection. `on_reconnect`: called after each reconnect, when every pull that was under way is lost."""

    nc: Client
    js: JetStreamContext
    on_reconnect: list[Callable[[], None]] = field(default_factory=list)

    async def publish(
        self,
        subject: str,
        message: Message | bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> PubAck:
        """Publish to the subject's stream and wait until it is stored.

        An unanswered publish may have been stored all the same, so it is sent again under the same id, three times in all.

        Raises:
            nats.js.errors.APIError: the stream refused it (full, a twin, a lost compare-and-set).
            nats.errors.Error: no answer; it may or may not be stored.
        """
        body = message if isinstance(message, bytes) else encode(message)
        identity = message_id or uuid.uuid4().hex
        for wait_s in (0.1, 0.5, None):
            try:
                # A fresh dict each time: nats-py writes into it.
                return await self.js.publish(subject, body, timeout=timeout_s, headers={**(headers or {}), MESSAGE_ID: identity})
            except _UNANSWERED as error:
                # A full subject is refused with the same code as a server that is not ready; but that is an answer.
                if wait_s is None or WINDOW_FULL in str(error):
                    raise
                await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")


@asynccontextmanager
async def connect(settings: NatsSettings, service: str) -> AsyncIterator[Bus]:
    """Give a connected bus; it waits for the server as long as it takes.

    When the client is closed by anything but us (credentials revoked, say) nothing of the process would work again and some
    loops would spin, so the process exits at once with status 70 for its supervisor to start afresh.
    """
    leaving = False
    waiting = True
    listeners: list[Callable[[], None]] = []

    async def closed() -> None:
        if not leaving:
            log.critical("nats_connection_closed", url=settings.url, action="the process exits; its supervisor restarts it")
            os._exit(EXIT_CONNECTION_CLOSED)

    async def disconnected() -> None:
        if not leaving:
            log.warning("nats_disconnected", url=settings.url)

    async def reconnected() -> None:
        log.info("nats_reconnected", url=settings.url)
        for listener in listeners:
            listener()

    async def failed(error: Exception) -> None:
        nonlocal waiting
        if waiting:
            log.warning("nats_unreachable", url=settings.url, error=str(error) or type(error).__name__, action="waiting for it")
            waiting = False
        elif not leaving:
            log.debug("nats_error", error=str(error) or type(error).__name__)

    nc = await nats.connect(
        **connection_options(settings, service),
        closed_cb=closed,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=failed,
    )
    waiting = False
    try:
        yield Bus(nc, nc.jetstream(timeout=5), listeners)
    finally:
        leaving = True
        await nc.close()


def connection_options(settings: NatsSettings, service: str) -> dict[str, Any]:
    """Options of every NATS connection of a service, FastStream's too."""
    options: dict[str, Any] = {
        "servers": settings.url,
        "name": f"{service}@{socket.gethostname()}",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.5,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "connect_timeout": 3,
    }
    if settings.credentials_file:
        options["user_credentials"] = settings.credentials_file
    elif settings.user:
        options["user"] = settings.user
        options["password"] = settings.password.get_secret_value() if settings.password else ""
    return options


async def wait_until_provisioned(js: JetStreamContext, streams: list[str]) -> None:
    """Return when these streams exist; until then say once what is missing and who makes it."""
    said = False
    while missing := [name for name in streams if not await _exists(js, name)]:
        if not said:
            log.warning("streams_missing", streams=missing, action="run `quotebus migrate`; waiting for it")
            said = True
        await asyncio.sleep(0.5)


async def _exists(js: JetStreamContext, stream: str) -> bool:
    try:
        await js.stream_info(stream)
    except (APIError, TimeoutError):
        return False
    return True


class ClockSkewError(Exception):
    """The clocks differ by more than a second, or cannot be compared; the text says what to do."""


async def clock_skew(bus: Bus) -> timedelta:
    """Clock skew: this clock minus the server's, to within half a round trip; the best of three tries."""
    best: tuple[timedelta, timedelta] | None = None
    for _ in range(3):
        asked = datetime.now(UTC)
        reply = await bus.nc.request("$JS.API.STREAM.INFO.REFRESH", b"", timeout=5)
        answered = datetime.now(UTC)
        said = json.loads(reply.data).get("ts")
        if said is None:
            raise ClockSkewError("the server's time is unknown, there is no stream REFRESH: run `quotebus migrate`")
        there = datetime.fromisoformat(said)
        trip = answered - asked
        if best is None or trip < best[0]:
            best = trip, asked + trip / 2 - there
    assert best is not None
    return best[1]


async def check_clock_skew(bus: Bus) -> None:
    """Raise ClockSkewError when the clocks differ by more than a second."""
    skew = await clock_skew(bus)
    if abs(skew) > MAX_CLOCK_SKEW:
        raise ClockSkewError(
            f"this clock is {skew.total_seconds():+.1f} s off the NATS server's, 1 s at most: synchronise both (chrony, NTP)"
        )
