"""The puller against a real server: cancelled, deleted under its feet, killed, stopped."""

import asyncio
import resource

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from quotebus.embedded import NatsServer
from services.runtime.bus import Bus, connect
from services.runtime.puller import Puller, heartbeat
from services.runtime.settings import NatsSettings

CONSUMER = ConsumerConfig(durable_name="c", ack_policy=AckPolicy.EXPLICIT, ack_wait=30)


@pytest.fixture
async def bus(nats_server: NatsServer):
    async with connect(NatsSettings(url=nats_server.url), "test") as bus:
        await bus.js.add_stream(StreamConfig(name="S", subjects=["s.*"]))
        await bus.js.add_consumer("S", CONSUMER)
        yield bus


async def publish(bus: Bus, count: int) -> None:
    for number in range(count):
        await bus.publish(f"s.{number}", b"x")


async def test_a_pull_gives_at_once_what_is_there_and_no_more_than_asked(bus: Bus):
    await publish(bus, 7)
    puller = Puller(bus, "S", "c")
    assert len(await puller.pull(5, 1)) == 5
    assert len(await puller.pull(5, 1)) == 2
    assert await puller.pull(5, 0.05) == []
    await puller.close()


async def test_a_cancelled_pull_strands_no_message(bus: Bus):
    puller = Puller(bus, "S", "c")
    pull = asyncio.create_task(puller.pull(5, 10))
    await asyncio.sleep(0.1)
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    await publish(bus, 5)
    got = []
    while len(got) < 5:
        got += await puller.pull(5, 2)
    await puller.close()


async def test_what_was_delivered_and_not_handed_out_goes_to_the_next_puller_at_once(bus: Bus):
    await publish(bus, 36)
    first, second = Puller(bus, "S", "c"), Puller(bus, "S", "c")
    assert await first.wait(1)
    await first.pull(1, 1)
    await first.pull(1, 1)
    await first.close()
    got = []
    while len(got) < 34:
        batch = await second.pull(36, 5)
        assert batch, "the rest waits for its ack timeout"
        got += batch
    await second.close()


async def test_a_deleted_consumer_is_waited_for_without_spinning(bus: Bus):
    puller = Puller(bus, "S", "c")
    await puller.pull(1, 0.1)
    await bus.js.delete_consumer("S", "c")
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert await puller.pull(1, 1.5) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - spent < 0.5
    await publish(bus, 3)
    await bus.js.add_consumer("S", CONSUMER)
    got = []
    while len(got) < 3:
        got += await puller.pull(3, 6)
    await puller.close()


async def test_an_open_pull_outlives_a_killed_server(bus: Bus, nats_server: NatsServer):
    puller = Puller(bus, "S", "c")
    pull = asyncio.create_task(puller.pull(3, 30))
    await asyncio.sleep(0.2)
    await nats_server.kill()
    await asyncio.sleep(0.3)
    await nats_server.start()
    await publish(bus, 1)
    assert len(await pull) == 1
    await puller.close()


async def test_a_message_kept_alive_is_not_delivered_again(bus: Bus):
    await bus.js.add_consumer("S", ConsumerConfig(durable_name="short", ack_policy=AckPolicy.EXPLICIT, ack_wait=1.5))
    await publish(bus, 1)
    puller = Puller(bus, "S", "short")
    [msg] = await puller.pull(1, 1)
    async with heartbeat([msg], 1.5):
        assert await puller.pull(1, 2.5) == []
    await msg.ack()
    await puller.close()


async def test_a_stop_empties_nobody_elses_queue(bus: Bus):
    await publish(bus, 2)
    puller = Puller(bus, "S", "c")
    [one] = await puller.pull(1, 1)
    await one.ack_sync(timeout=2)
    await puller.close()
    info = await bus.js.consumer_info("S", "c")
    assert (info.num_ack_pending or 0) + (info.num_pending or 0) == 1


async def test_a_pull_after_a_wait_gives_all_that_is_ready_and_not_the_one_that_was_waited_for(bus: Bus):
    await publish(bus, 9)
    puller = Puller(bus, "S", "c")
    assert await puller.wait(1)
    assert len(await puller.pull(5, 1)) == 5
    assert await puller.wait(1)
    assert len(await puller.pull(50, 1)) == 4
    await puller.close()
