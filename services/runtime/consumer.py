"""Consumer of a durable: decode, handle, acknowledge. Whatever a message makes a handler raise ends with that message.

A message that cannot be decoded is a dead letter at once, one that a handler fails on after `max_deliveries`. Only deliveries that
raised are counted, in this process: the server's own count includes those that had to wait, and begins anew after its crash. So
a restart begins the count anew, too, and N replicas may each take their share of it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import nats.errors
import structlog
from nats.aio.msg import Msg

from services.runtime.dead_letters import INTERNAL_ERROR, MALFORMED, DeadLetters
from services.runtime.faults import describe, is_wait, place_of
from services.runtime.puller import BatchWait, Puller, heartbeat, nak_unacked, wait_for_batch
from services.runtime.service import sleep_until_stopped, until_stopped

IDLE_S = 5.0
WAIT_S = 2.0
RETRY_S = (0.5, 1.0, 2.0, 5.0)
UNDO_S = 0.5
MAX_COUNTED = 10_000
E = TypeVar("E")

log = structlog.get_logger()


class ShutdownError(Exception):
    """The process ends before the handler could do its work; the messages go to the next one at once."""


class FailurePolicy:
    """Redelivers a message whose handler raised, and makes it a dead letter when it raised too often.

    `waits`: exceptions, beside those of the bus, that only say that something is unavailable for now. `permanent`: those that the
    message is to blame for and that would come again for ever.
    """

    def __init__(
        self,
        dead_letters: DeadLetters,
        max_deliveries: int,
        waits: tuple[type[Exception], ...] = (),
        permanent: tuple[type[Exception], ...] = (),
    ) -> None:
        self.dead_letters = dead_letters
        self._max = max_deliveries
        self._waits = waits
        self._permanent = permanent
        self._failures: dict[tuple[str, int], int] = {}

    def is_wait(self, error: Exception) -> bool:
        """True for an exception after which the same message is to be handled again, however often."""
        return not isinstance(error, self._permanent) and is_wait(error, self._waits)

    def is_suspect(self, msg: Msg) -> bool:
        """True for a message on which a handler failed before: it had better be handled alone."""
        return _key(msg) in self._failures

    def fault(self, msg: Msg, error: Exception) -> tuple[str, str] | None:
        """Count a failure; give reason and text of the dead letter when it was the last one, None while the message comes again."""
        if isinstance(error, self._permanent):
            return MALFORMED, describe(error)
        if self.is_wait(error):
            return None
        failures = self._failures[_key(msg)] = self._failures.get(_key(msg), 0) + 1
        if failures == 1:
            log.error("handler_failed", subject=msg.subject, error=describe(error), exc_info=error)
        if failures < self._max:
            self._forget_oldest()
            return None
        del self._failures[_key(msg)]
        return INTERNAL_ERROR, f"{describe(error)}, in {place_of(error)}, at each of {failures} deliveries"

    async def redeliver(self, msg: Msg, error: Exception) -> None:
        """Let the server deliver a message again, the later the more often it failed."""
        failures = self._failures.get(_key(msg), 0)
        waits = self.is_wait(error) or not failures
        await nak_unacked([msg], WAIT_S if waits else RETRY_S[min(failures, len(RETRY_S)) - 1])

    async def malformed(self, msg: Msg, error: Exception) -> None:
        """End a message that cannot be decoded."""
        await self.dead_letters.end(msg, MALFORMED, describe(error))

    def _forget_oldest(self) -> None:
        while len(self._failures) > MAX_COUNTED:
            del self._failures[next(iter(self._failures))]


class Batch(Generic[E]):
    """Messages that are handled together. `slots`: what bounds the batches that run at once."""

    def __init__(self, deliveries: Sequence[tuple[Msg, E]], slots: asyncio.Semaphore | None = None) -> None:
        self.deliveries = deliveries
        self._slots = slots

    @property
    def events(self) -> list[E]:
        return [event for _, event in self.deliveries]

    def release_slot(self) -> None:
        """Let the next batch begin before this one ends."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


class Handler(ABC, Generic[E]):
    """The part of a consumer that knows its messages."""

    @abstractmethod
    def decode(self, msg: Msg) -> E | None:
        """The event of a message; None for one that is acknowledged unread. Whatever it raises makes the message a dead letter."""

    @abstractmethod
    async def handle(self, batch: Batch[E]) -> None:
        """Do what the events ask for. When it returns, messages that it did not end itself are acknowledged."""

    async def give_up(self, event: E, why: str) -> None:
        """Tell others that an event becomes a dead letter."""


@dataclass(frozen=True)
class ConsumerOptions:
    """`batch`: messages handled together at most; `at_once`: batches. `grace_s`: time that they get to end after a stop."""

    ack_wait_s: float
    batch: int = 1
    at_once: int = 1
    wait: BatchWait | None = None
    grace_s: float = 1.2


class Consumer(Generic[E]):
    """Reads one durable until stopped; then finishes what is in hand, or gives it back to the server at once."""

    def __init__(self, puller: Puller, handler: Handler[E], failures: FailurePolicy, options: ConsumerOptions) -> None:
        self._puller = puller
        self._handler = handler
        self._failures = failures
        self._options = options
        self._slots = asyncio.Semaphore(options.at_once)
        self._running: dict[asyncio.Task[None], Sequence[Msg]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until stopped."""
        try:
            while not stop.is_set():
                if not await until_stopped(stop, self._slots.acquire()):
                    return
                if messages := await self._next(stop):
                    self._start(messages)
                else:
                    self._slots.release()
        finally:
            await self._end()
            await self._puller.close()

    async def _next(self, stop: asyncio.Event) -> list[Msg]:
        size = self._options.batch
        try:
            if stop.is_set() or not await until_stopped(stop, self._puller.wait(IDLE_S, size)):
                return []
            if self._options.wait:
                await wait_for_batch(self._puller, size, self._options.wait)
            return await self._puller.pull(size, 0)
        except Exception as error:  # the next pull may work
            log.warning("pull_failed", consumer=self._puller.durable, error=describe(error), exc_info=error)
            await sleep_until_stopped(stop, WAIT_S)
            return []

    def _start(self, messages: Sequence[Msg]) -> None:
        batch = asyncio.create_task(self._consume(messages))
        self._running[batch] = messages
        batch.add_done_callback(self._running.pop)

    async def _end(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=self._options.grace_s)
        left: Mapping[asyncio.Task[None], Sequence[Msg]] = dict(self._running)
        for batch, messages in left.items():
            # Before the work is undone, which may take as long as a database likes.
            await nak_unacked(messages)
            batch.cancel()
        if left:
            await asyncio.wait(left, timeout=UNDO_S)

    async def _consume(self, messages: Sequence[Msg]) -> None:
        batch = Batch[E]((), self._slots)
        try:
            async with heartbeat(messages, self._options.ack_wait_s):
                batch.deliveries = await self._decoded(messages)
                await self._handle(batch)
        except ShutdownError:
            pass
        except Exception as error:  # an acknowledgement that the client refuses, say: the messages come again
            log.warning("messages_redelivered", consumer=self._puller.durable, messages=len(messages), error=describe(error))
        finally:
            batch.release_slot()
            await nak_unacked(messages)

    async def _decoded(self, messages: Sequence[Msg]) -> list[tuple[Msg, E]]:
        deliveries = []
        for msg in messages:
            # The loop has other work, too: feeding Postgres the batch before this one.
            await asyncio.sleep(0)
            try:
                event = self._handler.decode(msg)
            except Exception as error:  # RecursionError, OverflowError: whatever bytes can cause
                await self._failures.malformed(msg, error)
            else:
                if event is None:
                    await msg.ack()
                else:
                    deliveries.append((msg, event))
        return deliveries

    async def _handle(self, batch: Batch[E]) -> None:
        """Handle a batch; one that fails is handled message by message, so that one of them does not spoil the others."""
        if not batch.deliveries:
            return
        try:
            await self._handler.handle(batch)
            await _ack_unacked(batch.deliveries)
        except ShutdownError:
            raise
        except Exception as error:  # a bug, or something is unavailable
            if len(batch.deliveries) == 1 or self._failures.is_wait(error):
                await self._failed(batch.deliveries, error)
                return
            for delivery in batch.deliveries:
                if not delivery[0].is_acked:
                    await self._handle(Batch([delivery]))

    async def _failed(self, deliveries: Sequence[tuple[Msg, E]], error: Exception) -> None:
        unacked = [(msg, event) for msg, event in deliveries if not msg.is_acked]
        for msg, event in unacked:
            fault = self._failures.fault(msg, error)
            if fault is None:
                await self._failures.redeliver(msg, error)
            else:
                await self._give_up(msg, event, *fault)
        if self._failures.is_wait(error) and unacked:
            log.warning("messages_redelivered", consumer=self._puller.durable, messages=len(unacked), error=describe(error))

    async def _give_up(self, msg: Msg, event: E, reason: str, why: str) -> None:
        try:
            await self._handler.give_up(event, why)
        except Exception as error:
            log.warning("give_up_failed", subject=msg.subject, error=describe(error))
        await self._failures.dead_letters.end(msg, reason, why)


async def _ack_unacked(deliveries: Sequence[tuple[Msg, object]]) -> None:
    for msg, _ in deliveries:
        if not msg.is_acked:
            try:
                await msg.ack()
            except nats.errors.Error as error:
                log.debug("not_acknowledged", subject=msg.subject, error=describe(error))


def _key(msg: Msg) -> tuple[str, int]:
    return msg.metadata.stream, msg.metadata.sequence.stream
