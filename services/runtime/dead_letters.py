"""Dead letters: messages that are given up on, published with their reason on DEAD for operators."""

from datetime import UTC, datetime
from typing import NamedTuple

import nats.errors
import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.fetch_task import FetchTask
from services.runtime.bus import Bus
from services.runtime.faults import describe

MALFORMED, BAD_REQUEST, INTERNAL_ERROR = "malformed", "bad_request", "internal_error"
MAX_BODY_BYTES = 64 * 1024
RETRY_S = 5.0
DEAD_LETTERS = Counter("quotebus_dead_letters_total", "Messages given up on.", ["service", "reason"])

log = structlog.get_logger()


class StoredMessage(NamedTuple):
    """A message as its stream holds it."""

    stream: str
    sequence: int
    subject: str
    body: bytes

    @classmethod
    def of(cls, msg: Msg) -> "StoredMessage":
        """The stored form of a delivered message."""
        meta = msg.metadata
        return cls(meta.stream, meta.sequence.stream, msg.subject, msg.data)


class DeadLetters:
    """Writer of one service's dead letters.

    `reader`: which of several readers of a message gives it up. Its letters name no stream, so that nobody publishes the message
    again to the others, who have read it.
    """

    def __init__(self, bus: Bus, service: str, reader: str | None = None) -> None:
        self._bus = bus
        self._service = service
        self._reader = reader

    async def publish(self, source: Msg | StoredMessage, reason: str, message: str, task: FetchTask | None = None) -> None:
        """Publish the letter of a message; one reason of a message counts once. The message itself stays where it is.

        Raises:
            nats.errors.Error: the letter is not stored.
        """
        origin = source if isinstance(source, StoredMessage) else StoredMessage.of(source)
        letter = DeadLetter(
            reason=reason,
            message=message,
            service=self._service,
            subject=origin.subject,
            stream=None if self._reader else origin.stream,
            sequence=None if self._reader else origin.sequence,
            body=origin.body[:MAX_BODY_BYTES].decode(errors="replace"),
            symbol=task.symbol if task else None,
            provider=task.provider if task else None,
            run_id=task.run_id if task else None,
            request_id=task.request_id if task else None,
            at=datetime.now(UTC),
        )
        identity = f"{self._reader or origin.stream}:{origin.sequence}:{reason}"
        await self._bus.publish(subjects.dead(reason), letter, message_id=identity)
        DEAD_LETTERS.labels(self._service, reason).inc()
        log.warning("dead_letter", reason=reason, error=message, subject=origin.subject, sequence=origin.sequence)

    async def end(self, msg: Msg, reason: str, message: str, task: FetchTask | None = None) -> bool:
        """Publish the letter of a message and end the message; redeliver it later, and give False, while that is impossible."""
        try:
            await self.publish(msg, reason, message, task)
            await msg.term()
        except nats.errors.Error as error:
            log.warning("dead_letter_not_stored", subject=msg.subject, error=describe(error))
            if not msg.is_acked:
                await msg.nak(delay=RETRY_S)
            return False
        return True
