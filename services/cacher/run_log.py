"""What is said of runs: log lines, and metrics of the same names. Of a delivery that came twice it may be said twice."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog
from prometheus_client import Counter, Histogram

from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult

PLANNED = Counter("quotebus_run_planned_total", "Runs that began.", ["lane"])
RESULT = Counter("quotebus_run_result_total", "Symbols of runs by what became of them.", ["outcome"])
FINISHED = Counter("quotebus_run_finished_total", "Runs that ended.", ["state"])
MISSED = Counter("quotebus_run_missed_total", "Slots that got no run of their own.", ["reason"])
_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
LATE = Histogram("quotebus_run_late_seconds", "From a run's slot to its request.", buckets=_SECONDS)
TOOK = Histogram("quotebus_run_took_seconds", "From a run's request to its end.", buckets=_SECONDS)

log = structlog.get_logger()


def record_event(event: RunPlanned | RunResult | RunMissed) -> None:
    """A run began, or something became of one symbol."""
    if isinstance(event, RunPlanned) and event.part == 1:
        PLANNED.labels(event.lane).inc()
        log.info(
            "run_planned", run_id=event.run_id, job=event.job, lane=event.lane, dataset=event.dataset, timeframe=event.timeframe,
            planned=event.planned, late_s=_seconds(event.slot_at, event.requested_at), missed_slots=event.missed_slots,
        )  # fmt: skip
    elif isinstance(event, RunResult):
        RESULT.labels(event.outcome).inc()
        log.debug(
            "run_result", run_id=event.run_id, job=event.job, symbol=event.symbol, outcome=event.outcome, reason=event.reason,
            provider=event.provider, rows=event.rows, calls=event.calls,
        )  # fmt: skip


def record_missed(events: Sequence[RunMissed], new: Mapping[str, int]) -> None:
    """Slots were missed. `new`: how many of them were not known yet, by reason."""
    for reason, count in new.items():
        MISSED.labels(reason).inc(count)
        jobs = sorted({event.job for event in events if event.reason == reason})
        log.warning("run_missed", jobs=jobs, reason=reason, slots=count)


def record_finished(finished: RunFinished) -> None:
    """A run is over."""
    late_s, took_s = _seconds(finished.slot_at, finished.started_at), _seconds(finished.started_at, finished.finished_at)
    FINISHED.labels(finished.state).inc()
    if late_s is not None:
        LATE.observe(max(0.0, late_s))
    TOOK.observe(max(0.0, took_s or 0.0))
    (log.info if finished.state == "complete" else log.warning)(
        "run_finished", run_id=finished.run_id, job=finished.job, state=finished.state, planned=finished.planned,
        **finished.counts, reasons=finished.reasons, calls=finished.calls, refused=finished.refused, late_s=late_s, seconds=took_s,
    )  # fmt: skip


def _seconds(begin: datetime | None, end: datetime) -> float | None:
    return None if begin is None else round((end - begin).total_seconds(), 3)
