"""`run.planned`, `run.result`, `run.missed`: the history of runs, and the end of each, which only the cacher declares."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
from nats.aio.msg import Msg
from typing_extensions import override

from contracts import subjects
from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult
from services.cacher.run_log import record_event, record_finished, record_missed
from services.cacher.store_postgres_history import HistoryStore
from services.cacher.store_postgres_runs import RunStore
from services.cacher.write_batch import BatchWriter
from services.runtime.bus import Bus
from services.runtime.consumer import Batch, Handler
from services.runtime.puller import BatchWait

BATCH_EVENTS = 256
# Results come one by one, and a transaction for each would cost more than the prices they tell of.
BATCH_WAIT = BatchWait(step_s=0.05, most_s=0.5)
SWEEP_S = 2.0
Event = RunPlanned | RunResult | RunMissed

log = structlog.get_logger()


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
