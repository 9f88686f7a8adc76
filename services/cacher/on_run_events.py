"""Consumer of run events: run history in Postgres, `run.finished`, and the metrics of runs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram
from typing_extensions import override

from contracts import subjects
from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult
from services.cacher.store_postgres.runs import HistoryStore, RunStore
from services.cacher.write_batch import BatchWriter
from services.runtime.bus import Bus
from services.runtime.consumer import Batch, Handler
from services.runtime.puller import BatchWait

PLANNED = Counter("quotebus_run_planned_total", "Runs that began.", ["lane"])
RESULT = Counter("quotebus_run_result_total", "Symbols of runs by what became of them.", ["outcome"])
FINISHED = Counter("quotebus_run_finished_total", "Runs that ended.", ["state"])
MISSED = Counter("quotebus_run_missed_total", "Slots that got no run of their own.", ["reason"])
_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
DELAY = Histogram("quotebus_run_delay_seconds", "From a run's slot to its request.", buckets=_SECONDS)
DURATION = Histogram("quotebus_run_duration_seconds", "From a run's request to its end.", buckets=_SECONDS)

BATCH_EVENTS = 256
# Results come one by one, and a transaction for each would cost more than the prices they tell of.
BATCH_WAIT = BatchWait(step_s=0.05, most_s=0.5)
SWEEP_S = 2.0
Event = RunPlanned | RunResult | RunMissed

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
        DELAY.observe(max(0.0, late_s))
    DURATION.observe(max(0.0, took_s or 0.0))
    (log.info if finished.state == "complete" else log.warning)(
        "run_finished", run_id=finished.run_id, job=finished.job, state=finished.state, planned=finished.planned,
        **finished.counts, reasons=finished.reasons, calls=finished.calls, refused=finished.refused, late_s=late_s, seconds=took_s,
    )  # fmt: skip


def _seconds(begin: datetime | None, end: datetime) -> float | None:
    return None if begin is None else round((end - begin).total_seconds(), 3)


class RunEvents(Handler[Event]):
    """Handler of RUNS: stores its events and closes runs."""

    def __init__(self, bus: Bus, store: RunStore, history: HistoryStore, writer: BatchWriter) -> None:
        self._bus = bus
        self._store = store
        self._history = history
        self._writer = writer
        self._decoders: Mapping[str, Callable[[bytes], Event]] = {
            "planned": msgspec.json.Decoder(RunPlanned).decode,
            "result": msgspec.json.Decoder(RunResult).decode,
            "missed": msgspec.json.Decoder(RunMissed).decode,
        }

    @override
    def decode(self, msg: Msg) -> Event | None:
        # What has no decoder is our own `finished`, or what a newer version tells.
        decoder = self._decoders.get(msg.subject.split(".")[1])
        return decoder(msg.data) if decoder else None

    @override
    async def handle(self, batch: Batch[Event]) -> None:
        for finished in await self._writer.write(batch.events, self._write):
            await self._publish(finished)
        for event in batch.events:
            record_event(event)

    async def sweep(self, every_s: float = SWEEP_S) -> None:
        """Close runs past their deadline, and publish ends that are not published yet, again and again; runs until cancelled."""
        while True:
            try:
                for finished in await self._store.sweep():
                    await self._publish(finished)
            except Exception as error:  # Postgres or the bus is away; the next round does it
                log.debug("runs_not_swept", error=str(error) or type(error).__name__)
            await asyncio.sleep(every_s)

    async def _write(self, events: Sequence[Event]) -> list[RunFinished]:
        missed = [event for event in events if isinstance(event, RunMissed)]
        record_missed(missed, await self._history.write_missed(missed))
        return await self._store.write([event for event in events if not isinstance(event, RunMissed)])

    async def _publish(self, finished: RunFinished) -> None:
        # Published twice, after a crash or by two cachers, it is stored once.
        identity = f"finished-{finished.run_id}-{finished.request_id}"
        await self._bus.publish(subjects.run("finished", finished.job), finished, message_id=identity)
        if await self._store.published(finished):
            record_finished(finished)
