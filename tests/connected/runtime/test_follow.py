"""The reader of streams and buckets against a real NATS: in order, without gap or duplicate, whatever happens to the server."""

import asyncio
import logging
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import DeliverPolicy, KeyValueConfig, StreamConfig
from nats.js.errors import NotFoundError

from quotebus.embedded import NatsServer
from services.runtime.follow import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    Batch,
    BucketChanges,
    BucketEntry,
    MissedRange,
    Start,
    follow_bucket,
    follow_stream,
    read_stream,
)  # fmt: skip

STREAM, BUCKET = "NUMBERS", "things"


@pytest.fixture
async def nc(nats_url: str) -> AsyncIterator[Client]:
    """A connection that outlives its server, to one that has a stream and a bucket."""
    client = await connect(nats_url)
    await client.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["n.>"]))
    await client.jetstream().create_key_value(KeyValueConfig(bucket=BUCKET, history=1))
    yield client
    await client.close()


async def connect(url: str) -> Client:
    async def failed(_error: Exception) -> None: ...

    return await nats.connect(url, name="tester@here", max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=failed)


async def publish(client: Client, numbers: range, subject: str = "n.a") -> None:
    """Publish each number once, however often its answer is lost."""
    for number in numbers:
        headers = {"Nats-Msg-Id": f"{subject}-{number}"}
        while True:
            with suppress(nats.errors.Error):
                await client.jetstream().publish(subject, str(number).encode(), timeout=1, headers=dict(headers))
                break
            await asyncio.sleep(0.05)


class Reading:
    """A follower in the background, and what it has read."""

    def __init__(self, nc: Client, subject: str = "n.>", start: Start = DeliverPolicy.LAST_PER_SUBJECT, **options: Any) -> None:
        self.batches: list[Batch] = []
        self.task = asyncio.create_task(self._read(nc, subject, start, options))

    @property
    def messages(self) -> list[tuple[str, int]]:
        return [(message.subject, int(message.data)) for batch in self.batches for message in batch.messages]

    @property
    def numbers(self) -> list[int]:
        return [number for _, number in self.messages]

    @property
    def caught_up(self) -> bool:
        return any(batch.caught_up for batch in self.batches)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not true():
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _read(self, nc: Client, subject: str, start: Start, options: dict[str, Any]) -> None:
        async with aclosing(follow_stream(nc, STREAM, subject, start, **options)) as batches:
            async for batch in batches:
                self.batches.append(batch)


class Mirror:
    """A follower of the bucket in the background: what the bucket holds as far as it knows, and each change."""

    def __init__(self, nc: Client, keys: str = ">", bucket: str = BUCKET) -> None:
        self.values: dict[str, bytes] = {}
        self.entries: list[BucketEntry] = []
        self.caught_up = 0
        self.task = asyncio.create_task(self._read(nc, bucket, keys))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not true():
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _read(self, nc: Client, bucket: str, keys: str) -> None:
        async with aclosing(follow_bucket(nc, bucket, keys)) as changes:
            async for change in changes:
                self._apply(change)

    def _apply(self, change: BucketChanges) -> None:
        self.caught_up += change.caught_up
        self.entries += change.entries
        for entry in change.entries:
            if entry.value is None:
                del self.values[entry.key]
            else:
                self.values[entry.key] = entry.value


async def consumers(nc: Client, stream: str = STREAM) -> list[str]:
    return [str(each.name) for each in await nc.jetstream().consumers_info(stream)]


async def until_gone(nc: Client, stream: str = STREAM) -> None:
    async with asyncio.timeout(20):
        while await consumers(nc, stream):
            await asyncio.sleep(0.02)


async def test_what_is_stored_is_read_once_and_in_order_and_then_it_stops(nc: Client) -> None:
    await publish(nc, range(3 * BATCH_MESSAGES))
    await publish(nc, range(5), "n.b")
    assert [int(m.data) async for m in read_stream(nc, STREAM, "n.a")] == list(range(3 * BATCH_MESSAGES))
    assert [int(m.data) async for m in read_stream(nc, STREAM, "n.b", 3 * BATCH_MESSAGES + 3)] == [2, 3, 4]
    assert [m.subject async for m in read_stream(nc, STREAM, "n.*", DeliverPolicy.LAST_PER_SUBJECT)] == ["n.a", "n.b"]
    third = await nc.jetstream().get_msg(STREAM, 3)
    assert third.time is not None
    assert [int(m.data) async for m in read_stream(nc, STREAM, "n.a", third.time)][:1] == [2]
    await until_gone(nc)


async def test_reading_a_subject_of_which_nothing_is_stored_stops_at_once(nc: Client) -> None:
    await publish(nc, range(3))
    assert [m async for m in read_stream(nc, STREAM, "n.none")] == []
    assert [m async for m in read_stream(nc, STREAM, "n.a", 4)] == []


async def test_a_stream_that_does_not_exist_is_told_at_once_or_waited_for(nc: Client, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotFoundError):
        assert [m async for m in read_stream(nc, "NONE", "x")] == []
    with pytest.raises(NotFoundError):
        await anext(follow_stream(nc, "NONE", "x", DeliverPolicy.ALL))
    await nc.jetstream().delete_stream(STREAM)
    with caplog.at_level(logging.WARNING):
        reading = Reading(nc, patient=True)
        await reading.until(lambda: "NUMBERS cannot be read, retrying" in caplog.text)
    await nc.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["n.>"]))
    await publish(nc, range(2), "n.c")
    await reading.until(lambda: reading.messages[-1:] == [("n.c", 1)])
    await reading.stop()


async def test_the_last_of_each_subject_comes_first_then_the_news_of_that_and_then_every_change(nc: Client) -> None:
    await publish(nc, range(4))
    await publish(nc, range(2), "n.b")
    reading = Reading(nc)
    await reading.until(lambda: reading.caught_up)
    assert reading.messages == [("n.a", 3), ("n.b", 1)]
    assert reading.batches[-1].caught_up
    await publish(nc, range(4, 9))
    await reading.until(lambda: len(reading.messages) == 7)
    assert reading.numbers[2:] == [4, 5, 6, 7, 8]
    assert [name.partition("-")[0] for name in await consumers(nc)] == ["tester"]
    await reading.stop()
    await until_gone(nc)


async def test_a_follower_of_nothing_stored_is_caught_up_and_misses_nothing_from_then_on(nc: Client) -> None:
    await publish(nc, range(3))
    for start in (DeliverPolicy.NEW, DeliverPolicy.LAST_PER_SUBJECT):
        reading = Reading(nc, f"n.new.{start.value}", start)
        await reading.until(lambda reading=reading: reading.caught_up)
        [consumer] = await consumers(nc)
        await nc.jetstream().delete_consumer(STREAM, consumer)
        await publish(nc, range(20), f"n.new.{start.value}")
        await reading.until(lambda reading=reading: len(reading.messages) == 20)
        assert reading.numbers == list(range(20))
        await reading.stop()
        await until_gone(nc)


async def test_what_is_purged_before_it_could_be_read_delays_no_news_of_being_caught_up(nc: Client) -> None:
    await publish(nc, range(10 * BATCH_MESSAGES))
    batches = follow_stream(nc, STREAM, "n.a", DeliverPolicy.ALL)
    first = await anext(batches)
    assert not first.caught_up
    await nc.jetstream().purge_stream(STREAM)
    async with asyncio.timeout(20):
        while not (await anext(batches)).caught_up:
            pass
    await batches.aclose()


async def test_a_killed_server_costs_no_message_and_none_comes_twice_while_publishing_goes_on(
    nc: Client, nats_server: NatsServer
) -> None:
    publisher = await connect(nats_server.url)
    reading = Reading(nc, "n.a", DeliverPolicy.ALL)
    publishing = asyncio.create_task(publish(publisher, range(1500)))
    for count in (100, 400, 800):
        await reading.until(lambda count=count: len(reading.messages) >= count)
        await nats_server.kill()
        await nats_server.start()
    await publishing
    await reading.until(lambda: len(reading.messages) >= 1500)
    assert reading.numbers == list(range(1500))
    assert all(batch.missed is None for batch in reading.batches)
    await reading.stop()
    await publisher.close()


async def test_a_server_that_stays_away_for_long_is_read_on_from_where_it_was(nc: Client, nats_server: NatsServer) -> None:
    reading = Reading(nc, "n.a", DeliverPolicy.ALL, idle_s=0.2)
    await publish(nc, range(5))
    await reading.until(lambda: len(reading.messages) == 5)
    await nats_server.kill()
    # It says that it is alive meanwhile.
    count = len(reading.batches)
    await reading.until(lambda: len(reading.batches) > count + 8)
    await nats_server.start()
    await publish(nc, range(5, 10))
    await reading.until(lambda: len(reading.messages) >= 10)
    assert reading.numbers == list(range(10))
    await reading.stop()


async def test_a_follower_whose_consumer_is_deleted_on_the_server_goes_on_with_another(nc: Client) -> None:
    reading = Reading(nc, "n.a", DeliverPolicy.ALL)
    publishing = asyncio.create_task(publish(nc, range(600)))
    gone: set[str] = set()
    for count in (50, 250, 450):
        await reading.until(lambda count=count: len(reading.messages) >= count)
        for name in await consumers(nc):
            with suppress(NotFoundError):
                await nc.jetstream().delete_consumer(STREAM, name)
                gone.add(name)
    await publishing
    await reading.until(lambda: len(reading.messages) >= 600)
    assert reading.numbers == list(range(600))
    assert len(gone) >= 3
    await reading.stop()


async def test_a_reader_is_told_of_messages_that_are_no_longer_there(nc: Client) -> None:
    await publish(nc, range(10))
    await nc.jetstream().purge_stream(STREAM, seq=6)
    reading = Reading(nc, "n.a", 3)
    await reading.until(lambda: len(reading.messages) == 5)
    assert reading.batches[0].missed == MissedRange(3, 5)
    assert reading.numbers == [5, 6, 7, 8, 9]
    await reading.stop()


async def test_a_stream_made_anew_is_told_and_read_as_the_start_says(nc: Client) -> None:
    await publish(nc, range(5), "n.old")
    readings = {start: Reading(nc, "n.>", start) for start in (DeliverPolicy.LAST_PER_SUBJECT, DeliverPolicy.ALL, 1)}
    for reading in readings.values():
        await reading.until(lambda reading=reading: reading.caught_up)
        reading.batches.clear()
    await nc.jetstream().delete_stream(STREAM)
    await nc.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["n.>"]))
    # More than before, so that the sequence alone does not tell.
    await publish(nc, range(100, 103), "n.x")
    await publish(nc, range(200, 206), "n.y")
    for reading in readings.values():
        await reading.until(lambda reading=reading: any(batch.missed for batch in reading.batches))
    await publish(nc, range(300, 301), "n.z")
    for reading in readings.values():
        await reading.until(lambda reading=reading: reading.numbers[-1:] == [300])
    assert {number // 100 for number in readings[DeliverPolicy.LAST_PER_SUBJECT].numbers} == {1, 2, 3}
    everything = [100, 101, 102, 200, 201, 202, 203, 204, 205, 300]
    assert readings[DeliverPolicy.ALL].numbers == everything
    # Its place was one in the old stream: it goes on after what was there when it found the new one.
    assert readings[1].numbers == everything[-len(readings[1].numbers) :]
    for reading in readings.values():
        await reading.stop()


async def test_a_slow_reader_holds_no_more_than_a_request_brings(nc: Client) -> None:
    size = 50_000
    for _ in range(400):
        await nc.jetstream().publish("n.a", secrets.token_bytes(size))
    assert 400 * size > 4 * BATCH_BYTES
    read, most = 0, 0
    async with aclosing(follow_stream(nc, STREAM, "n.a", DeliverPolicy.ALL)) as batches:
        async for batch in batches:
            # All that the connection could deliver meanwhile has arrived when an answer sent later is there.
            await nc.jetstream().stream_info(STREAM)
            await nc.flush()
            read += len(batch.messages)
            most = max(most, sum(len(message.data) for message in batch.messages))
            [info] = await nc.jetstream().consumers_info(STREAM)
            assert info.delivered is not None
            assert (info.delivered.consumer_seq - read) * size <= BATCH_BYTES
            if batch.caught_up:
                break
    assert read == 400
    assert most <= BATCH_BYTES


async def test_a_message_larger_than_a_whole_request_comes_alone(nc: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.follow.BATCH_BYTES", 10_000)
    sizes = [100, 4_000, 30_000, 100, 30_000, 30_000, 9_000, 9_000, 100]
    for size in sizes:
        await nc.jetstream().publish("n.a", b"x" * size)
    assert [len(message.data) async for message in read_stream(nc, STREAM, "n.a")] == sizes


async def test_a_reader_that_pauses_until_its_consumer_has_expired_misses_nothing(
    nc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.follow._INACTIVE_S", 0.2)
    monkeypatch.setattr("services.runtime.follow._OPEN_S", 2.0)
    await publish(nc, range(2 * BATCH_MESSAGES))
    numbers: list[int] = []
    async with aclosing(follow_stream(nc, STREAM, "n.a", DeliverPolicy.ALL)) as batches:
        async for batch in batches:
            numbers += [int(message.data) for message in batch.messages]
            if batch.caught_up:
                break
            await until_gone(nc)
    assert numbers == list(range(2 * BATCH_MESSAGES))


async def test_the_connection_closed_ends_a_follower(nats_url: str, nc: Client) -> None:
    other = await connect(nats_url)
    reading = Reading(other)
    await reading.until(lambda: reading.caught_up)
    await other.close()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await reading.until(lambda: False)


async def test_a_bucket_is_read_then_each_change_and_deletion(nc: Client) -> None:
    bucket = await nc.jetstream().key_value(BUCKET)
    for key in ("a", "b.c", "gone"):
        await bucket.put(key, key.encode())
    await bucket.delete("gone")
    mirror = Mirror(nc)
    await mirror.until(lambda: mirror.caught_up > 0)
    assert mirror.values == {"a": b"a", "b.c": b"b.c"}
    assert [entry.revision for entry in mirror.entries] == [1, 2], "what was deleted before is no news"
    await bucket.put("a", b"new")
    await bucket.delete("a")
    await bucket.purge("b.c")
    await bucket.put("d", b"")
    await mirror.until(lambda: mirror.values == {"d": b""})
    assert [(entry.key, entry.value) for entry in mirror.entries[2:]] == [("a", b"new"), ("a", None), ("b.c", None), ("d", b"")]
    await mirror.stop()


async def test_keys_of_a_pattern_alone_are_read(nc: Client) -> None:
    bucket = await nc.jetstream().key_value(BUCKET)
    for key in ("key.x.1", "key.x", "other"):
        await bucket.put(key, b"1")
    mirror = Mirror(nc, "key.*.*")
    await mirror.until(lambda: mirror.caught_up > 0)
    assert mirror.values == {"key.x.1": b"1"}
    await mirror.stop()


async def test_a_bucket_that_is_empty_or_not_there_yet_is_waited_for(nc: Client) -> None:
    empty = Mirror(nc)
    await empty.until(lambda: empty.caught_up > 0)
    missing = Mirror(nc, bucket="later")
    bucket = await nc.jetstream().create_key_value(KeyValueConfig(bucket="later"))
    await bucket.put("k", b"v")
    await missing.until(lambda: missing.values == {"k": b"v"})
    await empty.stop()
    await missing.stop()


async def test_a_key_that_expires_is_gone(nc: Client) -> None:
    bucket = await nc.jetstream().create_key_value(KeyValueConfig(bucket="expiring", limit_marker_ttl=60))
    await bucket.create("k", b"v", msg_ttl=1)
    mirror = Mirror(nc, bucket="expiring")
    await mirror.until(lambda: mirror.entries != [] and not mirror.values)
    assert mirror.entries[-1].value is None
    await mirror.stop()


async def test_after_a_restart_only_what_differs_is_given_also_what_vanished_without_a_trace(
    nc: Client, nats_server: NatsServer
) -> None:
    bucket = await nc.jetstream().key_value(BUCKET)
    for key in ("same", "changed", "deleted", "vanished"):
        await bucket.put(key, b"1")
    mirror = Mirror(nc)
    await mirror.until(lambda: mirror.caught_up > 0)
    await nc.jetstream().purge_stream(f"KV_{BUCKET}", subject=f"$KV.{BUCKET}.vanished")
    before = len(mirror.entries)
    await nats_server.kill()
    await nats_server.start()
    other = await connect(nats_server.url)
    bucket = await other.jetstream().key_value(BUCKET)
    await bucket.put("changed", b"2")
    await bucket.delete("deleted")
    await bucket.put("made", b"3")
    await mirror.until(lambda: mirror.values == {"same": b"1", "changed": b"2", "made": b"3"})
    assert {entry.key for entry in mirror.entries[before:]} == {"changed", "deleted", "made", "vanished"}
    await other.close()
    await mirror.stop()


async def test_a_bucket_made_anew_is_taken_over_though_its_revisions_are_the_same(nc: Client) -> None:
    bucket = await nc.jetstream().key_value(BUCKET)
    await bucket.put("a", b"old")
    await bucket.put("b", b"old")
    mirror = Mirror(nc)
    await mirror.until(lambda: mirror.caught_up > 0)
    await nc.jetstream().delete_key_value(BUCKET)
    bucket = await nc.jetstream().create_key_value(KeyValueConfig(bucket=BUCKET))
    await bucket.put("a", b"new")
    await mirror.until(lambda: mirror.values == {"a": b"new"})
    await mirror.stop()


async def test_puts_and_deletes_during_kills_end_in_what_the_bucket_holds(nc: Client, nats_server: NatsServer) -> None:
    mirror, writer, stop = Mirror(nc), await connect(nats_server.url), asyncio.Event()

    async def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            with suppress(nats.errors.Error):
                bucket = await writer.jetstream(timeout=1).key_value(BUCKET)
                key = f"k{turn % 7}"
                await (bucket.delete(key) if turn % 3 == 0 else bucket.put(key, str(turn).encode()))

    writing = asyncio.create_task(write())
    for _ in range(2):
        count = len(mirror.entries)
        await mirror.until(lambda count=count: len(mirror.entries) > count + 50)
        await nats_server.kill()
        await nats_server.start()
    stop.set()
    await writing
    bucket = await writer.jetstream().key_value(BUCKET)
    await bucket.put("end", b"1")
    await mirror.until(lambda: "end" in mirror.values)
    held = {key: (await bucket.get(key)).value for key in await bucket.keys()}
    assert mirror.values == held
    await writer.close()
    await mirror.stop()


async def test_a_start_by_time_begins_at_that_instant(nc: Client) -> None:
    await publish(nc, range(3))
    third = await nc.jetstream().get_msg(STREAM, 3)
    assert third.time is not None
    reading = Reading(nc, "n.a", third.time)
    await reading.until(lambda: reading.caught_up)
    assert reading.numbers == [2]
    later = Reading(nc, "n.a", third.time + timedelta(days=1))
    await later.until(lambda: later.caught_up)
    assert later.numbers == []
    await reading.stop()
    await later.stop()


def test_the_client_and_the_reader_load_nothing_but_nats_msgspec_and_contracts() -> None:
    script = (
        "import sys, quotebus.client\n"
        "ours = sorted(m for m in sys.modules if m.split('.')[0] in ('services', 'quotebus'))\n"
        "print(ours)\n"
        "print(sorted({'structlog', 'faststream', 'pydantic', 'asyncpg', 'redis', 'prometheus_client'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours = ["quotebus", "quotebus.client", "services", "services.runtime", "services.runtime.follow"]
    assert done.stdout.splitlines() == [str(ours), "[]"]
