"""State that a clock keeps of a job."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from nats.errors import Error as NatsError

from contracts.job import Job
from services.runtime.schedules.clock_times import Schedule
from services.scheduler.dependent_schedule import DependentSchedule
from services.scheduler.publish_request import LastRequest

_LONGEST_RETRY_S = 30.0

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class ScheduledJob:
    """A job in a clock. `dependent`: the part of its schedule that is given the runs of its upstream job.

    `last_loaded`: `last` was read from the stream. `reported_until`: missed slots up to here were reported. `heap_entry`: the
    number of its entry in the clock's heap that counts. `busy`: a worker is publishing for it.
    """

    job: Job
    schedule: Schedule
    dependent: DependentSchedule | None = None
    last: LastRequest = field(default_factory=LastRequest)
    last_loaded: bool = False
    reported_until: datetime | None = None
    failures: int = 0
    heap_entry: int = -1
    busy: bool = False

    def set_last(self, last: LastRequest) -> None:
        """Take over the newest request of the job."""
        self.last = last
        if self.dependent is not None and last.slot is not None:
            self.dependent.add_published(last.slot)

    def backoff(self, error: Exception) -> timedelta:
        """Count a failure and give the time to wait. The request may be stored all the same, so `last` must be loaded again."""
        self.last_loaded = False
        self.failures += 1
        wait_s = min(_LONGEST_RETRY_S, 0.5 * 2**self.failures)
        if self.failures % 10 == 1 or not isinstance(error, NatsError):
            log.warning("ask_failed", job=self.job.id, error=f"{type(error).__name__}: {error}", retry_in_s=wait_s)
        return timedelta(seconds=wait_s)
