"""What a clock remembers of a job that ticks."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from nats.errors import Error as NatsError

from contracts.job import Job
from services.runtime.slots import Schedule
from services.scheduler.ask import LastAsked
from services.scheduler.chained import Chained

_LONGEST_RETRY_S = 30.0

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Running:
    """A job that ticks. `chained`: the part of its schedule that learns of another job's runs.

    `looked`: whether `last` was read from the stream. `said`: missed slots up to here were reported. `turn`: which of its
    entries in the clock's heap counts. `busy`: it is being asked for.
    """

    job: Job
    schedule: Schedule
    chained: Chained | None = None
    last: LastAsked = field(default_factory=LastAsked)
    looked: bool = False
    said: datetime | None = None
    failures: int = 0
    turn: int = -1
    busy: bool = False

    def remember(self, last: LastAsked) -> None:
        """Take over what was asked last."""
        self.last = last
        if self.chained is not None and last.slot is not None:
            self.chained.asked(last.slot)

    def failed(self, error: Exception) -> timedelta:
        """Take note of a failure, and how long to wait. The request may be stored all the same: look before asking again."""
        self.looked = False
        self.failures += 1
        wait_s = min(_LONGEST_RETRY_S, 0.5 * 2**self.failures)
        if self.failures % 10 == 1 or not isinstance(error, NatsError):
            log.warning("ask_failed", job=self.job.id, error=f"{type(error).__name__}: {error}", retry_in_s=wait_s)
        return timedelta(seconds=wait_s)
