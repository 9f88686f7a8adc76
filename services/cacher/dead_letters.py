"""Messages that are given up on: published for operators, never tried again."""

from datetime import UTC, datetime

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js.errors import APIError
from prometheus_client import Counter

from contracts import subjects
from contracts.run_events import DeadLetter
from services.runtime.bus import Bus

MAX_BODY_BYTES = 64 * 1024
MALFORMED = "malformed"
RETRY_S = 5.0
DEAD_LETTERS = Counter("quotebus_cacher_dead_letters_total", "Messages the cacher gave up on.")

log = structlog.get_logger()


class Undertaker:
    """Buries messages. One whose letter cannot be stored now is delivered again later, so that none vanishes."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def __call__(self, msg: Msg, why: str) -> None:
        """Publish a message as a dead letter and end it. `why` names the field or the fault."""
        where = msg.metadata
        letter = DeadLetter(
            reason=MALFORMED,
            message=why,
            service="cacher",
            subject=msg.subject,
            stream=where.stream,
            sequence=where.sequence.stream,
            body=msg.data[:MAX_BODY_BYTES].decode(errors="replace"),
            at=datetime.now(UTC),
        )
        identity = f"{where.stream}:{where.sequence.stream}:{MALFORMED}"
        try:
            await self._bus.publish(subjects.dead(MALFORMED), letter, message_id=identity)
        except (nats.errors.Error, APIError) as error:
            log.warning("dead_letter_not_stored", subject=msg.subject, error=str(error) or type(error).__name__)
            await msg.nak(delay=RETRY_S)
            return
        await msg.term()
        DEAD_LETTERS.inc()
        log.warning("dead_letter", reason=MALFORMED, error=why, subject=msg.subject, sequence=where.sequence.stream)
