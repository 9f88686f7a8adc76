"""The consumer against a real server: what a handler raises, how often it is tried, and what becomes of the others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.message import decode
from services.runtime.bus import Bus, connect
from services.runtime.consumer import Batch, Consumer, ConsumerOptions, FailurePolicy, Handler
from services.runtime.dead_letters import DeadLetters
from services.runtime.faults import decode_or_skip
from services.runtime.puller import Puller
from services.runtime.settings import NatsSettings


class PostgresIsAwayError(Exception):
    """What a service waits for."""


class Refusing(Handler[str]):
    """Raises what the text of a message says; `handled` are the texts it took, `tried` how often each came."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.handled: list[str] = []
        self.given_up: list[str] = []
        self.away = 0

    def decode(self, msg: Msg) -> str | None:
        if msg.data == b"overflow":
            raise OverflowError("date value out of range")
        return msg.data.decode()

    async def handle(self, batch: Batch[str]) -> None:
        for _, text in batch.deliveries:
            self.tried[text] += len(batch.deliveries) == 1
            if text == "bug":
                raise KeyError("no such key")
            if text == "wait" and self.away:
                self.away -= 1
                raise PostgresIsAwayError
        self.handled += batch.events

    async def give_up(self, event: str, why: str) -> None:
        self.given_up.append(event)


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    async with connect(NatsSettings(url=nats_url), "test") as bus:
        await bus.js.add_stream(StreamConfig(name="S", subjects=["s.*"]))
        await bus.js.add_stream(StreamConfig(name=subjects.DEAD, subjects=subjects.STREAM_SUBJECTS[subjects.DEAD]))
        await bus.js.add_consumer("S", ConsumerConfig(durable_name="c", ack_policy=AckPolicy.EXPLICIT, ack_wait=30))
        yield bus


@asynccontextmanager
async def consuming(bus: Bus, handler: Refusing, batch: int = 10, max_deliveries: int = 3) -> AsyncIterator[None]:
    failures = FailurePolicy(DeadLetters(bus, "test"), max_deliveries, waits=(PostgresIsAwayError,))
    stop = asyncio.Event()
    consumer = Consumer(Puller(bus, "S", "c"), handler, failures, ConsumerOptions(30, batch))
    running = asyncio.create_task(consumer.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await true():
            await asyncio.sleep(0.02)


async def all_ended(bus: Bus) -> bool:
    info = await bus.js.consumer_info("S", "c")
    return not info.num_pending and not info.num_ack_pending


async def letters(bus: Bus) -> list[DeadLetter]:
    state = (await bus.js.stream_info(subjects.DEAD)).state
    return [decode((await bus.js.get_msg(subjects.DEAD, n)).data or b"", DeadLetter) for n in range(1, state.last_seq + 1)]


async def test_a_bug_ends_its_message_after_so_many_deliveries_and_no_other_one(bus: Bus) -> None:
    handler = Refusing()
    for text in ("one", "bug", "two"):
        await bus.publish("s.x", text.encode())
    async with consuming(bus, handler):
        await until(lambda: all_ended(bus))
    [letter] = await letters(bus)
    assert sorted(handler.handled) == ["one", "two"]
    assert (handler.tried["bug"], handler.given_up) == (3, ["bug"])
    assert (letter.reason, letter.body, letter.stream, letter.sequence) == ("internal_error", "bug", "S", 2)
    assert "KeyError: 'no such key'" in letter.message
    assert "in services.runtime.consumer" in letter.message


async def test_what_cannot_be_decoded_is_a_dead_letter_at_once(bus: Bus) -> None:
    await bus.publish("s.x", b"overflow")
    async with consuming(bus, Refusing()):
        await until(lambda: all_ended(bus))
    [letter] = await letters(bus)
    assert (letter.reason, letter.message) == ("malformed", "OverflowError: date value out of range")
    assert not (await bus.js.consumer_info("S", "c")).num_redelivered


async def test_deliveries_that_had_to_wait_do_not_count(bus: Bus) -> None:
    handler = Refusing()
    handler.away = 5
    await bus.publish("s.x", b"wait")
    async with consuming(bus, handler, max_deliveries=2):
        await until(lambda: all_ended(bus))
    assert handler.handled == ["wait"]
    assert await letters(bus) == []


async def test_what_is_in_hand_at_a_stop_goes_back_at_once(bus: Bus) -> None:
    taken = asyncio.Event()

    class Slow(Refusing):
        async def handle(self, batch: Batch[str]) -> None:
            taken.set()
            await asyncio.sleep(60)

    await bus.publish("s.x", b"slow")
    async with consuming(bus, Slow()):
        await taken.wait()
    successor = Puller(bus, "S", "c")
    assert len(await successor.pull(1, 10)) == 1
    await successor.close()


def test_a_stored_value_that_cannot_be_decoded_is_skipped() -> None:
    def fails(_: bytes) -> int:
        raise RecursionError

    assert decode_or_skip("jobs.a", b"{", fails) is None
    assert decode_or_skip("jobs.a", b"7", int) == 7
