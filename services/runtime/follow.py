"""Reads a stream or a bucket in order: what is stored now, then every change, through reconnects and restarts of the server.

Each reader pulls from an ephemeral consumer of its own, one request at a time, so a slow reader holds no more than one request
brings. A lost message, a consumer that is gone and a silent server all end the consumer; the next one begins where it ended.
The public client imports this module, so it stands on nats-py alone.
"""

import asyncio
import json
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from math import inf

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo

HEARTBEAT_S = 1.0
SILENT_AFTER_S = 2.5
_LOOK_S = 1.0
BATCH_MESSAGES = 256
BATCH_BYTES = 4 * 2**20
_OPEN_S = 30.0
_INACTIVE_S = 60.0
_API_TIMEOUT_S = 3.0
_RETRY_S = 0.25
_NS = 1_000_000_000
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9-]")

# Where to begin; a number is the sequence of the first message.
Start = DeliverPolicy | datetime | int

log = logging.getLogger("quotebus")


@dataclass(frozen=True, slots=True)
class MissedRange:
    """Sequences that are no longer in the stream and were not read; from 1 to its end when the stream was made anew."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages in the stream's order. `caught_up`: nothing more was stored. `missed`: comes alone, before what follows it."""

    messages: Sequence[Msg] = ()
    caught_up: bool = False
    missed: MissedRange | None = None


@dataclass(frozen=True, slots=True)
class BucketEntry:
    """The newest value of a key; None when the key was deleted, purged or has expired."""

    key: str
    revision: int
    value: bytes | None
    written_at: datetime


@dataclass(frozen=True, slots=True)
class BucketChanges:
    """Entries that changed, in order of revision. `caught_up`: the reader has the whole bucket."""

    entries: Sequence[BucketEntry]
    caught_up: bool


async def read_stream(nc: Client, stream: str, subject: str, start: Start = DeliverPolicy.ALL) -> AsyncGenerator[Msg, None]:
    """Read the messages of a subject that are stored now, from `start` on and in order, and stop.

    Raises:
        nats.errors.Error: the stream does not exist, or the server fell silent before the end.
    """
    consumer = _Consumer(nc, stream)
    try:
        await consumer.create(nc.jetstream(timeout=_API_TIMEOUT_S), _consumer_config(subject, start))
        batch = Batch()
        while not batch.caught_up:
            batch = await consumer.next_batch(inf)
            for message in batch.messages:
                yield message
    except _ConsumerLostError as error:
        raise nats.errors.TimeoutError from error
    finally:
        await consumer.close()


async def follow_stream(
    nc: Client, stream: str, subject: str, start: Start, *, idle_s: float = inf, patient: bool = False
) -> AsyncGenerator[Batch, None]:
    """Read what a stream holds of a subject from `start` on, then each new message: none twice, none left out untold.

    The first batch comes once nothing that follows can be left out. With `idle_s` an empty batch comes when no message came for
    so long. With `patient` it also waits for the stream and the server at the beginning.

    Raises:
        nats.errors.Error: the stream does not exist or no answer came, at the beginning; the connection was closed.
    """
    position = _Position(stream, subject, start)
    async with aclosing(_batches(nc, stream, position.begin, idle_s=idle_s, patient=patient)) as batches:
        async for batch in batches:
            position.advance(batch)
            yield batch


async def follow_bucket(nc: Client, bucket: str, keys: str = ">") -> AsyncGenerator[BucketChanges, None]:
    """Read the newest value of each key, then each change; waits for the bucket and the server as long as it takes.

    After a loss the bucket is read again, and only what differs is given: also keys that vanished without a trace.

    Raises:
        nats.errors.Error: the connection was closed.
    """
    state = _BucketState(bucket, keys)
    async with aclosing(_batches(nc, f"KV_{bucket}", state.begin, idle_s=inf, patient=True)) as batches:
        async for batch in batches:
            yield state.changes(batch)


def bucket_entry(message: Msg) -> BucketEntry:
    """The entry of a bucket that a message of its stream holds."""
    headers = message.headers or {}
    # The first marks what a client deleted, the second what the server removed.
    deleted = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
    key = message.subject.split(".", 2)[2]
    metadata = message.metadata
    return BucketEntry(key, metadata.sequence.stream, None if deleted else message.data, metadata.timestamp)


Begin = Callable[[JetStreamContext], Awaitable[tuple[ConsumerConfig, MissedRange | None]]]


async def _batches(nc: Client, stream: str, begin: Begin, *, idle_s: float, patient: bool) -> AsyncGenerator[Batch, None]:
    """Give the batches of one consumer after another; `begin` says where each is to begin."""
    js = nc.jetstream(timeout=_API_TIMEOUT_S)
    begun, reported = patient, False
    while True:
        consumer = _Consumer(nc, stream)
        try:
            # What is sent while there is no server is kept by nats-py, and through a long outage it would be kept again and again.
            if not nc.is_reconnecting:
                config, missed = await begin(js)
                await consumer.create(js, config)
                begun, reported = True, False
                if missed is not None:
                    yield Batch(missed=missed)
                while True:
                    yield await consumer.next_batch(idle_s)
        except _ConsumerLostError as error:
            log.debug("reading %s goes on with another consumer: %s", stream, error)
        except nats.errors.Error as error:
            if not begun or nc.is_closed or nc.is_draining:
                raise
            log.log(logging.DEBUG if reported else logging.WARNING, "%s cannot be read, retrying: %r", stream, error)
            reported = True
        finally:
            await consumer.close()
        if idle_s < inf:
            yield Batch()
        # One that brought something did not fail; one that is lost at once each time must not be made again and again.
        await asyncio.sleep(0.0 if consumer.received else _RETRY_S)


def _consumer_config(subject: str, start: Start) -> ConsumerConfig:
    config = ConsumerConfig(
        filter_subject=subject, ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=_INACTIVE_S
    )
    if isinstance(start, DeliverPolicy):
        return config.evolve(deliver_policy=start)
    if isinstance(start, datetime):
        return config.evolve(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start)
    return config.evolve(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start)


class _Position:
    """Start position of a follower's next consumer: after the last message read, if the stream still has what follows it."""

    def __init__(self, stream: str, subject: str, start: Start) -> None:
        self._stream = stream
        self._subject = subject
        self._start = start
        self._seen = start - 1 if isinstance(start, int) else None
        self._stored = 0
        self._created: datetime | None = None

    async def begin(self, js: JetStreamContext) -> tuple[ConsumerConfig, MissedRange | None]:
        info = await js.stream_info(self._stream)
        missed = self._skip_missed(info)
        self._created, self._stored = info.created, info.state.last_seq
        if self._seen is None and self._start == DeliverPolicy.NEW:
            self._seen = info.state.last_seq
        return _consumer_config(self._subject, self._start if self._seen is None else self._seen + 1), missed

    def advance(self, batch: Batch) -> None:
        if batch.messages:
            self._seen = batch.messages[-1].metadata.sequence.stream
        elif batch.caught_up and self._seen is None:
            self._seen = self._stored

    def _skip_missed(self, info: StreamInfo) -> MissedRange | None:
        first, last = info.state.first_seq, info.state.last_seq
        if self._seen is None:
            return None
        if last < self._seen or (self._created is not None and self._created != info.created):
            # A start that says what is wanted of any stream holds for the new one too; a place in the old one means nothing in it.
            self._seen = last if isinstance(self._start, int) or self._start == DeliverPolicy.NEW else None
            return MissedRange(1, last)
        if self._seen + 1 < first:
            missed = MissedRange(self._seen + 1, first - 1)
            self._seen = missed.last
            return missed
        return None


class _BucketState:
    """The version that a follower has of each key of a bucket."""

    def __init__(self, bucket: str, keys: str) -> None:
        self._subject = f"$KV.{bucket}.{keys}"
        # A bucket made anew counts its revisions from 1 again.
        self._known: dict[str, tuple[int, datetime]] = {}
        self._unconfirmed: set[str] = set()

    async def begin(self, _js: JetStreamContext) -> tuple[ConsumerConfig, MissedRange | None]:
        self._unconfirmed = set(self._known)
        return _consumer_config(self._subject, DeliverPolicy.LAST_PER_SUBJECT), None

    def changes(self, batch: Batch) -> BucketChanges:
        entries = [entry for message in batch.messages if self._is_change(entry := bucket_entry(message))]
        if batch.caught_up:
            entries += [BucketEntry(key, self._known[key][0], None, self._known.pop(key)[1]) for key in self._unconfirmed]
            self._unconfirmed.clear()
        return BucketChanges(entries, batch.caught_up)

    def _is_change(self, entry: BucketEntry) -> bool:
        self._unconfirmed.discard(entry.key)
        if entry.value is None:
            return self._known.pop(entry.key, None) is not None
        version = entry.revision, entry.written_at
        changed = self._known.get(entry.key) != version
        self._known[entry.key] = version
        return changed


class _ConsumerLostError(Exception):
    """The consumer brings no more messages; another one must go on."""


class _Consumer:
    """Ephemeral pull consumer with one request open at a time; notices what was lost. `received`: messages that it brought."""

    def __init__(self, nc: Client, stream: str) -> None:
        reader = _NOT_IN_NAMES.sub("", str(nc.options.get("name") or "").partition("@")[0])
        self._name = f"{reader or 'reader'}-{secrets.token_hex(8)}"
        self._nc = nc
        self._stream = stream
        self._inbox = nc.new_inbox()
        self._subscription: Subscription | None = None
        self._numbers = count(1)
        self._buffer: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._reply = ""
        self._owed = 0  # messages that the open request may still bring
        self._one_by_one = False
        self._heard_at = 0.0
        self._reconnects = nc.stats["reconnects"]
        self.received = 0
        self._caught_up = self._caught_up_news = False
        self._lost = ""

    async def create(self, js: JetStreamContext, config: ConsumerConfig) -> None:
        """Raises nats.errors.Error: the stream does not exist, or no answer came."""
        self._subscription = await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_message)
        info = await js.add_consumer(self._stream, config.evolve(name=self._name))
        if not info.num_pending:
            self._note_caught_up()

    async def next_batch(self, wait_s: float) -> Batch:
        """Give what has come, also the news that nothing more is stored; after `wait_s` an empty batch.

        Raises:
            _ConsumerLostError: everything that came was given, and nothing more will come.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while not self._buffer and not self._caught_up_news and clock() < deadline:
            self._arrived.clear()
            self._check(clock())
            if not self._owed:
                await self._request()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadline, clock() + _LOOK_S)):
                    await self._arrived.wait()
        batch = Batch(tuple(self._buffer), self._caught_up)
        self._buffer.clear()
        self._caught_up_news = False
        return batch

    async def close(self) -> None:
        """Delete the consumer, without waiting for an answer."""
        with suppress(nats.errors.Error):
            if self._subscription is not None:
                await self._subscription.unsubscribe()
                if self._nc.is_connected:
                    await self._nc.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")

    def _check(self, now: float) -> None:
        if self._lost:
            raise _ConsumerLostError(self._lost)
        if self._nc.stats["reconnects"] != self._reconnects:
            raise _ConsumerLostError("the connection was another one")
        if self._owed and now >= self._heard_at + SILENT_AFTER_S:
            raise _ConsumerLostError("the server fell silent")

    async def _request(self) -> None:
        self._reply = f"{self._inbox}.{next(self._numbers)}"
        terms = {"expires": int(_OPEN_S * _NS), "idle_heartbeat": int(HEARTBEAT_S * _NS)}
        terms |= {"batch": 1} if self._one_by_one else {"batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES}
        self._owed, self._one_by_one = terms["batch"], False
        self._heard_at = asyncio.get_running_loop().time()
        await self._nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", json.dumps(terms).encode(), self._reply)

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if not message.subject.startswith(self._inbox):
            self._take(message)
        elif message.subject == self._reply:
            headers = message.headers or {}
            self._on_status(headers.get("Status", ""), headers.get("Description", ""))
        self._arrived.set()

    def _take(self, message: Msg) -> None:
        if self._lost or message.metadata.sequence.consumer != self.received + 1:
            self._lost = self._lost or "a message was lost on the way"
            return
        self.received += 1
        self._owed = max(0, self._owed - 1)
        self._buffer.append(message)
        self._caught_up = not message.metadata.num_pending

    def _on_status(self, status: str, text: str) -> None:
        if status == "100":
            # The server sends a heartbeat when it has nothing else to send.
            self._note_caught_up()
        elif status == "408" or (status == "409" and text == "Batch Completed"):
            self._owed = 0
        elif status == "409" and "MaxBytes" in text:
            # Whatever is larger than a whole request comes alone.
            self._one_by_one, self._owed = self._owed == BATCH_MESSAGES, 0
        else:
            self._lost = f"{status} {text}"

    def _note_caught_up(self) -> None:
        self._caught_up_news = self._caught_up_news or not self._caught_up
        self._caught_up = True
