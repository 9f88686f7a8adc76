"""Every stream, consumer and KV bucket of the system in one table, as it ought to be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from contracts import subjects
from contracts.message import LANES
from services.runtime.jetstream.quota_streams import quota_stream_config
from services.runtime.quota import DAY_S, QuotaWindow
from services.runtime.settings import Settings

NOTIFY_ACK_WAIT_S = 10.0
NOTIFY_PREFIX = "notify-"
PLANNER, COALESCER = "planner", "coalescer"
CACHER, CACHER_RUNS, CACHER_SYMBOLS = "cacher", "cacher-runs", "cacher-symbols"


@dataclass(frozen=True)
class Topology:
    streams: Sequence[StreamConfig]
    consumers: Sequence[tuple[str, ConsumerConfig]]
    buckets: Sequence[KeyValueConfig]
    ledgers: Sequence[QuotaWindow]
    replicas: int


def topology(settings: Settings, quotas: Mapping[str, Iterable[QuotaWindow]]) -> Topology:
    """The table for these settings; `quotas` holds the windows of every provider that works."""
    ledgers = [window for windows in quotas.values() for window in windows]
    return Topology(
        streams=[*_streams(settings), *(quota_stream_config(window, settings.nats.replicas) for window in ledgers)],
        consumers=_consumers(settings, list(quotas)),
        buckets=[
            KeyValueConfig(bucket=name, history=1, replicas=settings.nats.replicas)
            for name in (subjects.JOBS_BUCKET, subjects.SESSIONS_BUCKET, subjects.STATE_BUCKET, subjects.TOKENS_BUCKET)
        ],
        ledgers=ledgers,
        replicas=settings.nats.replicas,
    )


def _streams(settings: Settings) -> list[StreamConfig]:
    mebibyte, nats = 1024 * 1024, settings.nats

    def stream(name: str, age_s: float, size: int, **special: Any) -> StreamConfig:
        terms: dict[str, Any] = {
            "retention": RetentionPolicy.LIMITS,
            # A full stream refuses: a publisher that is told can wait, a message dropped in silence is lost.
            "discard": DiscardPolicy.NEW,
            "storage": StorageType.FILE,
            "duplicate_window": 120.0,
            "allow_direct": True,
            "num_replicas": nats.replicas,
        }
        subject_list = subjects.STREAM_SUBJECTS[name]
        return StreamConfig(name=name, subjects=subject_list, max_age=age_s, max_bytes=size, **{**terms, **special})

    return [
        # Older than every catch-up window, so a clock always finds its last slot.
        stream(subjects.REFRESH, 8 * DAY_S, 256 * mebibyte),
        stream(
            subjects.TASKS,
            0,
            256 * mebibyte,
            retention=RetentionPolicy.WORK_QUEUE,
            discard_new_per_subject=True,
            max_msgs_per_subject=2,
        ),
        stream(subjects.WAITING, 0, 256 * mebibyte, retention=RetentionPolicy.WORK_QUEUE),
        stream(subjects.PRICES, 7 * DAY_S, nats.price_mebibytes * mebibyte),
        stream(subjects.RUNS, 14 * DAY_S, 256 * mebibyte),
        stream(subjects.DEAD, 30 * DAY_S, 256 * mebibyte),
        # The last message of a subject is the state, so it is kept for ever. Forgetting the oldest would cost one call each.
        stream(subjects.SYMBOLS, 0, 64 * mebibyte, discard=DiscardPolicy.OLD, max_msgs_per_subject=1),
    ]


def notify_consumer(receiver: str) -> str:
    """The durable consumer on RUNS of one `[[notify]]` table."""
    return f"{NOTIFY_PREFIX}{receiver}"


def _consumers(settings: Settings, providers: Sequence[str]) -> list[tuple[str, ConsumerConfig]]:
    def durable(name: str, ack_wait_s: float, pending: int, subject: str | None = None) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=name,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_deliver=-1,
            max_ack_pending=pending,
            filter_subject=subject,
        )

    def notify(receiver: str) -> ConsumerConfig:
        # What was before somebody wanted to be told is no news to them.
        told = [subjects.run("finished", "*"), subjects.run("missed", "*")]
        terms = durable(notify_consumer(receiver), NOTIFY_ACK_WAIT_S, 256)
        return terms.evolve(deliver_policy=DeliverPolicy.NEW, filter_subjects=told)

    fetcher, cacher = settings.fetcher, settings.cacher
    lanes = [(subjects.lane_consumer(name, lane), subjects.lane_tasks(name, lane)) for name in providers for lane in LANES]
    return [
        (subjects.REFRESH, durable(PLANNER, fetcher.ack_wait_s, 64)),
        # A task that waits for its next look counts as pending, and must not keep another one from its first.
        (subjects.WAITING, durable(COALESCER, fetcher.ack_wait_s, 500_000)),
        (subjects.PRICES, durable(CACHER, cacher.ack_wait_s, 40 * cacher.batch_events)),
        (subjects.RUNS, durable(CACHER_RUNS, cacher.ack_wait_s, 10_000)),
        (subjects.SYMBOLS, durable(CACHER_SYMBOLS, cacher.ack_wait_s, 10_000)),
        *((subjects.RUNS, notify(receiver.id)) for receiver in settings.notify),
        *((subjects.TASKS, durable(name, fetcher.ack_wait_s, 5_000, subject)) for name, subject in lanes),
    ]
