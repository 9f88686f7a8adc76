"""`run.finished` and `run.missed`, for one receiver: sent at least once, in the receiver's own durable, so no other one waits."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter
from typing_extensions import override

from contracts import subjects
from contracts.message import decode
from contracts.run_events import RunFinished, RunMissed
from services.notifier.message import Notification, notification_of
from services.notifier.send_webhook import SendError
from services.runtime.bus import Bus
from services.runtime.consumer import Batch, Consumer, ConsumerOptions, FailurePolicy, Handler
from services.runtime.dead_letters import DeadLetters
from services.runtime.jetstream.topology import NOTIFY_ACK_WAIT_S, notify_consumer
from services.runtime.puller import Puller
from services.runtime.settings import NotifySettings

AT_ONCE = 8
FIRST_DELAY_S, LONGEST_DELAY_S = 5.0, 900.0
GIVE_UP_AFTER = timedelta(days=1)
UNDELIVERED = "undelivered"
SENT = Counter("quotebus_notifications_total", "Notifications by what became of them.", ["notify", "outcome"])

log = structlog.get_logger()


class Sender(Protocol):
    """Sender of notifications to one receiver."""

    async def send(self, notice: Notification) -> None:
        """Return when it was taken; raise SendError when it was not."""
        ...


class Notifications(Handler[Notification]):
    """Handler of RUNS for one receiver: sends it what it wants to know."""

    def __init__(self, bus: Bus, settings: NotifySettings, sender: Sender, max_deliveries: int) -> None:
        self._settings = settings
        self._sender = sender
        self._dead_letters = DeadLetters(bus, "notifier", reader=settings.id)
        options = ConsumerOptions(NOTIFY_ACK_WAIT_S, at_once=AT_ONCE, grace_s=0)
        puller = Puller(bus, subjects.RUNS, notify_consumer(settings.id))
        self._consumer = Consumer(puller, self, FailurePolicy(self._dead_letters, max_deliveries), options)

    async def run(self, stop: asyncio.Event) -> None:
        """Send until stopped; what is in hand then goes back to the stream."""
        await self._consumer.run(stop)

    def wants(self, notice: Notification) -> bool:
        """True for what this receiver wants to know."""
        on, jobs = self._settings.on, self._settings.jobs
        occasion = notice.event in on or (notice.event == "failed" and "finished" in on)
        return occasion and ((notice.job or subjects.NO_JOB) in jobs if jobs else notice.job is not None)

    @override
    def decode(self, msg: Msg) -> Notification | None:
        kind: type[RunFinished | RunMissed] = RunMissed if msg.subject.split(".")[1] == "missed" else RunFinished
        notice = notification_of(decode(msg.data, kind))
        return notice if self.wants(notice) else None

    @override
    async def handle(self, batch: Batch[Notification]) -> None:
        for msg, notice in batch.deliveries:
            try:
                await self._sender.send(notice)
            except SendError as error:
                await self._retry_later(msg, str(error))
            else:
                self._count("sent")
                log.info("notified", notify=self._settings.id, id=notice.id, occasion=notice.event, job=notice.job)

    @override
    async def give_up(self, event: Notification, why: str) -> None:
        self._count("given_up")
        log.error("notification_given_up", notify=self._settings.id, id=event.id, error=why)

    async def _retry_later(self, msg: Msg, why: str) -> None:
        age = datetime.now(UTC) - msg.metadata.timestamp
        if age > GIVE_UP_AFTER:
            text = f"notify {self._settings.id}: not taken for {GIVE_UP_AFTER.days} day: {why}"
            if await self._dead_letters.end(msg, UNDELIVERED, text):
                self._count("given_up")
                log.error("notification_given_up", notify=self._settings.id, reason=UNDELIVERED, error=text)
            return
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(msg.metadata.num_delivered - 1, 10))
        await msg.nak(delay=delay_s)
        self._count("postponed")
        log.warning("notify_failed", notify=self._settings.id, subject=msg.subject, error=why, again_in_s=delay_s)

    def _count(self, outcome: str) -> None:
        SENT.labels(self._settings.id, outcome).inc()
