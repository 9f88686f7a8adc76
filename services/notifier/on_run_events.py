"""`run.finished` and `run.missed`, for one receiver: sent at least once, in the receiver's own durable, so no other one waits."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js.errors import APIError
from prometheus_client import Counter

from contracts import subjects
from contracts.message import decode
from contracts.run_events import DeadLetter, RunFinished, RunMissed
from services.notifier.notice import Notice, notice_of
from services.notifier.webhook import SendError
from services.runtime.bus import Bus
from services.runtime.puller import Puller, kept_alive
from services.runtime.settings import NotifySettings
from services.runtime.topology import NOTIFY_ACK_WAIT_S, notify_consumer

AT_ONCE = 8
PULL_S = 0.5
FIRST_DELAY_S, LONGEST_DELAY_S = 5.0, 900.0
GIVE_UP_AFTER = timedelta(days=1)
UNDELIVERED, MALFORMED = "undelivered", "malformed"
SENT = Counter("quotebus_notifications_total", "Notifications by what became of them.", ["notify", "outcome"])

log = structlog.get_logger()


class Sender(Protocol):
    """How a receiver is reached."""

    async def send(self, notice: Notice) -> None:
        """Return when it was taken; raise SendError when it was not."""
        ...


class Notifications:
    """Tells one receiver what it wants to know."""

    def __init__(self, bus: Bus, settings: NotifySettings, sender: Sender) -> None:
        self._bus = bus
        self._settings = settings
        self._sender = sender

    async def run(self, stop: asyncio.Event) -> None:
        """Send until stopped; what is in hand then goes back to the stream."""
        puller = Puller(self._bus, subjects.RUNS, notify_consumer(self._settings.id))
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                messages = await puller.pull(AT_ONCE, PULL_S)
                sending = asyncio.create_task(self._handle_all(messages))
                await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                await _give_back(messages)
        finally:
            stopping.cancel()
            await puller.close()

    def wants(self, notice: Notice) -> bool:
        """Whether this receiver wants to know."""
        on, jobs = self._settings.on, self._settings.jobs
        occasion = notice.occasion in on or (notice.occasion == "failed" and "finished" in on)
        return occasion and ((notice.job or subjects.NO_JOB) in jobs if jobs else notice.job is not None)

    async def _handle_all(self, messages: Sequence[Msg]) -> None:
        for outcome in await asyncio.gather(*(self._handle(msg) for msg in messages), return_exceptions=True):
            if isinstance(outcome, Exception):
                log.warning("notification_goes_back", notify=self._settings.id, error=repr(outcome))

    async def _handle(self, msg: Msg) -> None:
        kind: type[RunFinished | RunMissed] = RunMissed if msg.subject.split(".")[1] == "missed" else RunFinished
        try:
            notice = notice_of(decode(msg.data, kind))
        except (msgspec.MsgspecError, ValueError) as error:
            await self._bury(msg, MALFORMED, str(error))
            return
        if not self.wants(notice):
            await msg.ack()
            return
        async with kept_alive([msg], NOTIFY_ACK_WAIT_S):
            try:
                await self._sender.send(notice)
            except SendError as error:
                await self._later(msg, str(error))
                return
        await msg.ack()
        self._count("sent")
        log.info("notified", notify=self._settings.id, id=notice.id, occasion=notice.occasion, job=notice.job)

    async def _later(self, msg: Msg, why: str) -> None:
        age = datetime.now(UTC) - msg.metadata.timestamp
        if age > GIVE_UP_AFTER:
            await self._bury(msg, UNDELIVERED, f"notify {self._settings.id}: not taken for {GIVE_UP_AFTER.days} day: {why}")
            return
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(msg.metadata.num_delivered - 1, 10))
        await msg.nak(delay=delay_s)
        self._count("postponed")
        log.warning("notify_failed", notify=self._settings.id, subject=msg.subject, error=why, again_in_s=delay_s)

    async def _bury(self, msg: Msg, reason: str, why: str) -> None:
        """Give up on a message. Its letter names no stream: sent again to everybody it would be a run that ends twice."""
        body = msg.data[: 64 * 1024].decode(errors="replace")
        letter = DeadLetter(reason=reason, message=why, service="notifier", subject=msg.subject, body=body, at=datetime.now(UTC))
        identity = f"{self._settings.id}:{msg.metadata.sequence.stream}:{reason}"
        try:
            await self._bus.publish(subjects.dead(reason), letter, message_id=identity)
        except (nats.errors.Error, APIError) as error:
            log.warning("dead_letter_not_stored", subject=msg.subject, error=str(error) or type(error).__name__)
            await msg.nak(delay=FIRST_DELAY_S)
            return
        await msg.term()
        self._count("given_up")
        log.error("notification_given_up", notify=self._settings.id, reason=reason, error=why)

    def _count(self, outcome: str) -> None:
        SENT.labels(self._settings.id, outcome).inc()


async def _give_back(messages: Sequence[Msg]) -> None:
    for msg in messages:
        if not msg.is_acked:
            try:
                await msg.nak()
            except nats.errors.Error as error:
                log.debug("not_given_back", subject=msg.subject, error=str(error) or type(error).__name__)
