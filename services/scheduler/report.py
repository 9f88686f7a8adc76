"""What a clock says of slots: asked, late, missed."""

from datetime import datetime

import structlog
from prometheus_client import Counter, Histogram

from contracts.job import Job
from services.scheduler.due import Due

ASKED = Counter("quotebus_slots_asked_total", "Slots this clock published a request for.", ["late"])
MISSED = Counter("quotebus_slots_missed_total", "Slots nobody asked for in time, as this clock found them.")
BEHIND = Histogram("quotebus_slot_delay_seconds", "From when a slot was due to its stored request; late ones left out.")

log = structlog.get_logger()


def report(job: Job, what: Due, missed: int, now: datetime) -> None:
    """Say what became of a slot, and of the `missed` ones before it that were not told of already. `now`: when it was done."""
    MISSED.inc(max(0, missed))
    facts = {"job": job.id, "slot": what.slot.isoformat(), "missed_slots": what.missed}
    if not what.ask:
        if missed > 0:
            log.warning("slots_missed", **{**facts, "missed_slots": missed}, reason="older than the job catches up")
        return
    ASKED.labels(str(what.late).lower()).inc()
    if not what.late:
        BEHIND.observe(max(0.0, (now - what.at).total_seconds()))
    (log.warning if what.late or what.missed else log.debug)("slot_asked", **facts, late=what.late)
