"""Makes the server match the table of streams, consumers and buckets, or says where it does not."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, KeyValueConfig, StreamConfig
from nats.js.errors import NotFoundError

from contracts import subjects
from services.runtime.bus import wait_until_provisioned
from services.runtime.jetstream.quota_streams import migrate_quota_streams
from services.runtime.jetstream.topology import NOTIFY_PREFIX, Topology

__all__ = ["drift", "provision", "wait_until_provisioned"]

# What the server fills in or rounds by itself is no drift.
_COMPARED_STREAM = (
    "subjects", "retention", "discard", "discard_new_per_subject", "max_msgs_per_subject", "max_msgs", "max_age", "max_bytes",
    "allow_atomic", "allow_msg_ttl", "duplicate_window", "deny_delete", "deny_purge", "allow_direct", "num_replicas", "storage",
)  # fmt: skip
_COMPARED_CONSUMER = ("ack_policy", "ack_wait", "max_deliver", "max_ack_pending", "filter_subject", "filter_subjects")
_WHOSE = {subjects.TASKS: "its provider", subjects.RUNS: "its [[notify]] table"}


async def provision(js: JetStreamContext, wanted: Topology) -> list[str]:
    """Create what is missing, update what differs, remove consumers of providers that are gone; give a line for each change."""
    done = await migrate_quota_streams(js, wanted.ledgers, wanted.replicas)
    for stream in wanted.streams:
        done += await _provision_stream(js, stream)
    for bucket in wanted.buckets:
        done += await _provision_bucket(js, bucket)
    for stream_name, consumer in wanted.consumers:
        done += await _provision_consumer(js, stream_name, consumer)
    async for stream_name, stale in _stale_consumers(js, wanted):
        await js.delete_consumer(stream_name, stale)
        done.append(f"removed consumer {stale}: {_WHOSE[stream_name]} is no longer there")
    return done


async def drift(js: JetStreamContext, wanted: Topology) -> list[str]:
    """Give a line for everything that is missing on the server or set otherwise than the table says."""
    found = []
    for stream in wanted.streams:
        found += [f"stream {stream.name}: {what}" for what in await _stream_drift(js, stream)]
    for bucket in wanted.buckets:
        try:
            await js.key_value(bucket.bucket)
        except NotFoundError:
            found.append(f"bucket {bucket.bucket}: missing")
    for stream_name, consumer in wanted.consumers:
        found += [f"consumer {consumer.durable_name}: {what}" for what in await _consumer_drift(js, stream_name, consumer)]
    found += [f"consumer {stale}: {_WHOSE[stream]} is not there" async for stream, stale in _stale_consumers(js, wanted)]
    return found


async def _provision_stream(js: JetStreamContext, stream: StreamConfig) -> list[str]:
    differs = await _stream_drift(js, stream)
    if not differs:
        return []
    if differs == ["missing"]:
        await js.add_stream(stream)
        return [f"created stream {stream.name}"]
    await js.update_stream(stream)
    return [f"updated stream {stream.name}: {'; '.join(differs)}"]


async def _provision_bucket(js: JetStreamContext, bucket: KeyValueConfig) -> list[str]:
    try:
        await js.key_value(bucket.bucket)
    except NotFoundError:
        await js.create_key_value(bucket)
        return [f"created bucket {bucket.bucket}"]
    return []


async def _provision_consumer(js: JetStreamContext, stream: str, consumer: ConsumerConfig) -> list[str]:
    differs = await _consumer_drift(js, stream, consumer)
    if not differs:
        return []
    await js.add_consumer(stream, consumer)
    word = "created" if differs == ["missing"] else "updated"
    return [f"{word} consumer {consumer.durable_name}" + ("" if word == "created" else f": {'; '.join(differs)}")]


async def _stream_drift(js: JetStreamContext, wanted: StreamConfig) -> list[str]:
    try:
        info = await js.stream_info(wanted.name or "")
    except NotFoundError:
        return ["missing"]
    return _differences(asdict(info.config), asdict(wanted), _COMPARED_STREAM)


async def _consumer_drift(js: JetStreamContext, stream: str, wanted: ConsumerConfig) -> list[str]:
    try:
        info = await js.consumer_info(stream, wanted.durable_name or "")
    except NotFoundError:
        return ["missing"]
    return _differences(asdict(info.config), asdict(wanted), _COMPARED_CONSUMER)


def _differences(there: dict[str, Any], wanted: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [
        f"{name} is {there.get(name)!r}, should be {wanted[name]!r}"
        for name in names
        if _unset(there.get(name)) != _unset(wanted[name])
    ]


def _unset(value: Any) -> Any:
    """The value, or None where the server writes 0 or -1 for "not set"."""
    return None if value in (0, -1) else value or None


async def _stale_consumers(js: JetStreamContext, wanted: Topology) -> AsyncIterator[tuple[str, str]]:
    """Stream and name of each consumer of ours whose reason is gone."""
    known = {(stream, consumer.durable_name) for stream, consumer in wanted.consumers}
    for stream, prefix in ((subjects.TASKS, ""), (subjects.RUNS, NOTIFY_PREFIX)):
        try:
            there = await js.consumers_info(stream)
        except NotFoundError:
            continue
        for info in there:
            if info.name.startswith(prefix) and (stream, info.name) not in known:
                yield stream, info.name
