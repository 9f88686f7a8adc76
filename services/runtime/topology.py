"""Every stream, consumer and KV bucket of the system in one table, as it ought to be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig

from contracts import subjects
from contracts.message import LANES
from services.runtime.settings import Settings

DAY_S = 86400.0
Window = Literal["second", "minute", "hour", "day", "month"]
WINDOW_S: Mapping[Window, float] = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 26 * 3600.0, "month": 32 * DAY_S}
LEDGER_STATE, LEDGER_READY, LEDGER_CARRYING = "quotebus-ledger", "ready", "carrying"
PLANNER, CACHER, CACHER_RUNS = "planner", "cacher", "cacher-runs"


@dataclass(frozen=True)
class QuotaWindow:
    """One limit of one provider key: at most `limit` calls per window. Days and months begin at midnight in `zone`."""

    provider: str
    key: str
    window: Window
    limit: int
    zone: str = "UTC"

    @property
    def stream(self) -> str:
        """The stream that is this window's ledger. The limit is part of the name, so whoever counts by another limit is refused."""
        return f"QUOTA_{self.provider}_{self.key}_{self.window}_{self.limit}"

    @property
    def margin_s(self) -> float:
        """How much longer than the window a permit is remembered: covers the time between the permit and the call's arrival."""
        length = WINDOW_S[self.window]
        return 1.0 if length >= 60 else 0.25 if length < 10 else 0.5

    @property
    def by_date(self) -> bool:
        """Whether the window resets on a date instead of sliding."""
        return self.window in ("day", "month")

    def quota_date(self, now: datetime) -> date | None:
        """The day, or first of the month, that a call at `now` counts for in the provider's zone; none for sliding windows."""
        if not self.by_date:
            return None
        today = now.astimezone(ZoneInfo(self.zone)).date()
        return today.replace(day=1) if self.window == "month" else today

    def resets_at(self, now: datetime) -> datetime | None:
        """When the current day or month ends; none for sliding windows."""
        day = self.quota_date(now)
        if day is None:
            return None
        following = (day + timedelta(days=32)).replace(day=1) if self.window == "month" else day + timedelta(days=1)
        return datetime(following.year, following.month, following.day, tzinfo=ZoneInfo(self.zone))

    def subject(self, now: datetime) -> str:
        """Where a permit for a call at `now` is published."""
        return subjects.quota(self.provider, self.key, self.window, self.quota_date(now))


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
        streams=[*_streams(settings), *(ledger_stream(window, settings.nats.replicas) for window in ledgers)],
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
        stream(subjects.PRICES, 7 * DAY_S, nats.price_mebibytes * mebibyte),
        stream(subjects.RUNS, 14 * DAY_S, 256 * mebibyte),
        stream(subjects.DEAD, 30 * DAY_S, 256 * mebibyte),
    ]


def ledger_stream(window: QuotaWindow, replicas: int, *, ready: bool = True) -> StreamConfig:
    """The stream that is a window's ledger. Until it is `ready` no fetcher spends by it."""
    length = WINDOW_S[window.window] + (0 if window.by_date else window.margin_s)
    subject = subjects.quota(window.provider, window.key, window.window)
    return StreamConfig(
        name=window.stream,
        subjects=[f"{subject}.*"] if window.by_date else [subject],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        max_msgs_per_subject=window.limit,
        max_age=length,
        duplicate_window=min(120.0, length),
        deny_delete=True,
        deny_purge=True,
        allow_direct=True,
        storage=StorageType.FILE,
        num_replicas=replicas,
        metadata={LEDGER_STATE: LEDGER_READY if ready else LEDGER_CARRYING},
    )


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

    fetcher, cacher = settings.fetcher, settings.cacher
    lanes = [(subjects.lane_consumer(name, lane), subjects.lane_tasks(name, lane)) for name in providers for lane in LANES]
    return [
        (subjects.REFRESH, durable(PLANNER, fetcher.ack_wait_s, 64)),
        (subjects.PRICES, durable(CACHER, cacher.ack_wait_s, 40 * cacher.batch_events)),
        (subjects.RUNS, durable(CACHER_RUNS, cacher.ack_wait_s, 10_000)),
        *((subjects.TASKS, durable(name, fetcher.ack_wait_s, 5_000, subject)) for name, subject in lanes),
    ]
