"""Pulls the messages of one durable: never spins, never blocks, strands nothing, outlives its consumer and its server.

One pull request is open at a time. What it brings waits in a buffer until it is asked for, so a cancelled `pull` strands no
message. A request whose server died is noticed by its missing heartbeats, or at once when the client reconnects.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import nats.errors
import structlog
from nats.aio.msg import Msg

from services.runtime.bus import Bus

HEARTBEAT_S = 5.0
OPEN_S = 30.0
REST_S = 0.5
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_NS = 1_000_000_000

log = structlog.get_logger()


class Puller:
    """The messages of one durable, in order of delivery. One user at a time."""

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self.durable = durable
        self._bus = bus
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._inbox = bus.nc.new_inbox()
        self._ids = itertools.count(1)
        self._subscription: Any = None  # its drain() is untyped
        self._buffer: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._reply = ""
        self._owed = 0
        self._asked_for_one = False
        self._heard = 0.0
        self._open_until = 0.0
        self.failures = 0  # requests in a row that found no consumer, or no server that was ready
        self._trouble = ""
        bus.on_reconnect.append(self._forget_request)

    async def pull(self, batch: int, wait_s: float, *, no_wait: bool = False) -> list[Msg]:
        """Give up to `batch` messages: at once what is there, else the first that come within `wait_s`, else none.

        With `no_wait` it only asks for what the server has ready. A consumer that is gone or a server that is down looks like no
        messages; it is logged once and asked again with growing pauses.
        """
        await self._until_some(batch, wait_s, no_wait=no_wait)
        if self._asked_for_one and not self._owed and 0 < len(self._buffer) < batch:
            await self._ask_for_the_rest(batch - len(self._buffer))
        await self._collect(batch)
        return [self._buffer.popleft() for _ in range(min(batch, len(self._buffer)))]

    async def wait(self, wait_s: float, batch: int = 1) -> bool:
        """Wait up to `wait_s` for a message; it stays for the next `pull`. Keeps a pull request for `batch` messages open."""
        await self._until_some(batch, wait_s, no_wait=False)
        return bool(self._buffer)

    @property
    def waiting(self) -> Sequence[Msg]:
        """Messages delivered and not yet handed out."""
        return self._buffer

    async def close(self) -> None:
        """Stop: what was delivered and not handed out goes back to the server at once."""
        with suppress(ValueError):
            self._bus.on_reconnect.remove(self._forget_request)
        if self._subscription is not None and not self._bus.nc.is_closed:
            # Draining tells the server to send no more, then waits for what is already under way.
            with suppress(nats.errors.Error, asyncio.TimeoutError):
                async with asyncio.timeout(2):
                    await self._subscription.drain()
            self._subscription = None
        while self._buffer:
            await nak_unacked([self._buffer.popleft()])

    async def _until_some(self, batch: int, wait_s: float, *, no_wait: bool) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while not self._buffer:
            now = clock()
            if now >= deadline or (no_wait and self._owed and self._open_until > now and self._reply):
                break
            if self._trouble:
                await self._back_off(deadline - now)
                continue
            if not self._owed:
                await self._ask(batch, no_wait=no_wait)
            await self._wait(min(deadline, self._heard + 2 * HEARTBEAT_S, self._open_until))
            if no_wait and not self._owed:
                break
            self._give_up_when_silent(clock())

    async def _ask_for_the_rest(self, count: int) -> None:
        """After a `wait`, which lets one message in, the server may have more of them ready."""
        await self._ask(count, no_wait=True)
        until = asyncio.get_running_loop().time() + REST_S
        while self._owed and asyncio.get_running_loop().time() < until:
            await self._wait(until)

    async def _collect(self, batch: int) -> None:
        """Let in what has already reached the socket: a batch comes as many messages in a row."""
        seen = 0
        while seen < len(self._buffer) < batch and self._owed:
            seen = len(self._buffer)
            await asyncio.sleep(0)

    async def _ask(self, batch: int, *, no_wait: bool) -> None:
        if self._subscription is None:
            self._subscription = await self._bus.nc.subscribe(f"{self._inbox}.*", cb=self._receive, pending_msgs_limit=-1)
        clock = asyncio.get_running_loop().time()
        self._reply = f"{self._inbox}.{next(self._ids)}"
        self._asked_for_one = batch == 1
        self._owed, self._heard, self._open_until = batch, clock, clock + (2.0 if no_wait else OPEN_S + HEARTBEAT_S)
        terms = {"no_wait": True} if no_wait else {"expires": int(OPEN_S * _NS), "idle_heartbeat": int(HEARTBEAT_S * _NS)}
        try:
            await self._bus.nc.publish(self._next, json.dumps({"batch": batch, **terms}).encode(), self._reply)
        except nats.errors.Error as error:
            self._failed(str(error) or type(error).__name__)

    async def _receive(self, msg: Msg) -> None:
        self._heard = asyncio.get_running_loop().time()
        status = (msg.headers or {}).get("Status") if msg.subject.startswith(self._inbox) else None
        if status is None:
            self._buffer.append(msg)
            self._owed = max(0, self._owed - 1)
            self._recovered()
        elif msg.subject == self._reply and status != "100":
            self._owed = 0
            text = (msg.headers or {}).get("Description", "")
            if status == "503" or (status == "409" and "deleted" in text.lower()):
                self._failed(f"{status} {text or 'no such consumer, or JetStream is not ready'}")
            elif status in ("404", "408"):
                self._recovered()
        self._wake.set()

    def _failed(self, why: str) -> None:
        self._owed = 0
        self._trouble = why
        if self.failures == 0:
            log.warning("pull_failed", consumer=self.durable, error=why, action="asking again; if it lasts run `quotebus migrate`")
        self.failures += 1

    def _recovered(self) -> None:
        if self.failures:
            log.info("pull_recovered", consumer=self.durable, after_failures=self.failures)
        self.failures, self._trouble = 0, ""

    def _forget_request(self) -> None:
        self._owed, self._reply, self._trouble = 0, "", ""
        self._wake.set()

    def _give_up_when_silent(self, now: float) -> None:
        if self._owed and (now >= self._open_until or now - self._heard >= 2 * HEARTBEAT_S):
            self._owed, self._reply = 0, ""

    async def _back_off(self, remaining_s: float) -> None:
        pause = BACKOFF_S[min(self.failures, len(BACKOFF_S)) - 1]
        await self._wait(asyncio.get_running_loop().time() + min(pause, max(0.0, remaining_s)))
        self._trouble = ""

    async def _wait(self, until: float) -> None:
        self._wake.clear()
        timeout = until - asyncio.get_running_loop().time()
        if timeout > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()


@asynccontextmanager
async def heartbeat(messages: Iterable[Msg], ack_wait_s: float) -> AsyncIterator[None]:
    """Tell the server every third of `ack_wait_s` that these messages are being worked on, until acked or the block ends."""
    held = list(messages)

    async def beat() -> None:
        while True:
            await asyncio.sleep(ack_wait_s / 3)
            for message in held:
                if not message.is_acked:
                    with suppress(nats.errors.Error):
                        await message.in_progress()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


class Buffer(Protocol):
    """The part of a `Puller` that a batch fills."""

    @property
    def waiting(self) -> Sequence[Msg]: ...


@dataclass(frozen=True)
class BatchWait:
    """Linger of a batch: it fills while messages come within `step_s`, all of them `may_wait`, and `most_s` have not passed."""

    step_s: float
    most_s: float
    may_wait: Callable[[Msg], bool] = lambda _msg: True


async def wait_for_batch(buffer: Buffer, size: int, wait: BatchWait) -> None:
    """Return when `size` messages are in the buffer, or when the batch may fill up no longer: one write costs as much as many."""
    clock = asyncio.get_running_loop().time
    until, before = clock() + wait.most_s, 0
    while before < len(buffer.waiting) < size and clock() < until and all(map(wait.may_wait, buffer.waiting)):
        before = len(buffer.waiting)
        await asyncio.sleep(wait.step_s)


async def nak_unacked(messages: Iterable[Msg], delay_s: float | None = None) -> None:
    """Let the server deliver those that are not acknowledged again, at once or after a delay."""
    for msg in messages:
        if not msg.is_acked:
            try:
                await msg.nak(delay=delay_s)
            except nats.errors.Error as error:
                log.debug("not_redelivered", subject=msg.subject, error=str(error) or type(error).__name__)
