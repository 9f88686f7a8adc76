"""`run.planned` and `run.result`: the history of runs, and the end of each, which only the cacher declares."""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog
from nats.aio.msg import Msg

from contracts import subjects
from contracts.run_events import RunFinished, RunPlanned, RunResult
from services.cacher.dead_letters import Undertaker
from services.cacher.patience import Patience, StoppedError, give_back
from services.cacher.store_postgres_runs import RunEvent, RunStore
from services.runtime.bus import Bus
from services.runtime.puller import Puller, kept_alive

BATCH_EVENTS = 256
PULL_S = 0.5
LINGER_S = 0.05  # results come one by one, and a transaction for each would cost more than the prices they tell of
SWEEP_S = 2.0
REDELIVER_S = 5.0

log = structlog.get_logger()


class RunEvents:
    """Stores the events of RUNS and closes runs."""

    def __init__(self, bus: Bus, store: RunStore, ack_wait_s: float) -> None:
        self._bus = bus
        self._store = store
        self._ack_wait_s = ack_wait_s
        self._bury = Undertaker(bus)
        self._planned = msgspec.json.Decoder(RunPlanned)
        self._result = msgspec.json.Decoder(RunResult)

    async def run(self, puller: Puller, patience: Patience, stop: asyncio.Event) -> None:
        """Store run events until stopped; what is in hand then goes back to the stream."""
        try:
            while not stop.is_set():
                if await puller.wait(PULL_S):
                    await asyncio.sleep(LINGER_S)
                    await self._handle(await puller.pull(BATCH_EVENTS, PULL_S), patience)
        finally:
            await puller.close()

    async def sweep(self, every_s: float = SWEEP_S) -> None:
        """Close what is past its deadline, and tell what was not told, again and again; runs until cancelled."""
        while True:
            try:
                for finished in await self._store.sweep():
                    await self._tell(finished)
            except Exception as error:  # Postgres or the bus is away; the next round does it
                log.debug("runs_not_swept", error=str(error) or type(error).__name__)
            await asyncio.sleep(every_s)

    async def _handle(self, messages: Sequence[Msg], patience: Patience) -> None:
        try:
            async with kept_alive(messages, self._ack_wait_s):
                deliveries = await self._read(messages)
                for over in await patience.store_each(deliveries, self._store.write, self._bury):
                    for finished in over:
                        await self._tell(finished)
                for msg, _ in deliveries:
                    if not msg.is_acked:
                        await msg.ack()
        except StoppedError:
            pass
        except Exception as error:  # whatever it was, the events are still on the stream and come again
            log.warning("run_events_go_back", events=len(messages), error=repr(error))
            await give_back(messages, REDELIVER_S)
        finally:
            await give_back(messages)

    async def _read(self, messages: Sequence[Msg]) -> list[tuple[Msg, RunEvent]]:
        deliveries: list[tuple[Msg, RunEvent]] = []
        for msg in messages:
            kind = msg.subject.split(".")[1]
            if kind == "finished":
                await msg.ack()
                continue
            try:
                event = self._planned.decode(msg.data) if kind == "planned" else self._result.decode(msg.data)
            except (msgspec.MsgspecError, ValueError) as error:
                await self._bury(msg, str(error))
            else:
                deliveries.append((msg, event))
        return deliveries

    async def _tell(self, finished: RunFinished) -> None:
        # Told twice, after a crash or by two cachers, it is stored once.
        identity = f"finished-{finished.run_id}-{finished.request_id}"
        await self._bus.publish(subjects.run("finished", finished.job), finished, message_id=identity)
        await self._store.published(finished)
        took_s = round((finished.finished_at - finished.started_at).total_seconds(), 3)
        log.info(
            "run_finished", run_id=finished.run_id, job=finished.job, planned=finished.planned, **finished.counts, seconds=took_s
        )
