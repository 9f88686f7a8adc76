"""`run.planned`, `run.result`, `run.missed`: the history of runs, and the end of each, which only the cacher declares."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
from nats.aio.msg import Msg

from contracts import subjects
from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult
from services.cacher.dead_letters import Undertaker
from services.cacher.linger import linger
from services.cacher.patience import Patience, StoppedError, give_back
from services.cacher.run_log import say_event, say_finished, say_missed
from services.cacher.store_postgres_history import HistoryStore
from services.cacher.store_postgres_runs import RunStore
from services.runtime.bus import Bus
from services.runtime.puller import Puller, kept_alive

BATCH_EVENTS = 256
PULL_S = 0.5
# Results come one by one, and a transaction for each would cost more than the prices they tell of.
LINGER_S, LINGER_STEP_S = 0.5, 0.05
SWEEP_S = 2.0
REDELIVER_S = 5.0
Event = RunPlanned | RunResult | RunMissed

log = structlog.get_logger()


class RunEvents:
    """Stores the events of RUNS and closes runs."""

    def __init__(self, bus: Bus, store: RunStore, history: HistoryStore, ack_wait_s: float) -> None:
        self._bus = bus
        self._store = store
        self._history = history
        self._ack_wait_s = ack_wait_s
        self._bury = Undertaker(bus)
        self._decode: Mapping[str, Callable[[bytes], Event]] = {
            "planned": msgspec.json.Decoder(RunPlanned).decode,
            "result": msgspec.json.Decoder(RunResult).decode,
            "missed": msgspec.json.Decoder(RunMissed).decode,
        }

    async def run(self, puller: Puller, patience: Patience, stop: asyncio.Event) -> None:
        """Store run events until stopped; what is in hand then goes back to the stream."""
        try:
            while not stop.is_set():
                if await puller.wait(PULL_S, BATCH_EVENTS):
                    await linger(puller, BATCH_EVENTS, LINGER_STEP_S, LINGER_S)
                    await self._handle(await puller.pull(BATCH_EVENTS, 0), patience)
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
                for over in await patience.store_each(deliveries, self._write, self._bury):
                    for finished in over:
                        await self._tell(finished)
                for msg, event in deliveries:
                    if not msg.is_acked:
                        await msg.ack()
                        say_event(event)
        except StoppedError:
            pass
        except Exception as error:  # whatever it was, the events are still on the stream and come again
            log.warning("run_events_go_back", events=len(messages), error=repr(error))
            await give_back(messages, REDELIVER_S)
        finally:
            await give_back(messages)

    async def _read(self, messages: Sequence[Msg]) -> list[tuple[Msg, Event]]:
        deliveries: list[tuple[Msg, Event]] = []
        for msg in messages:
            decode = self._decode.get(msg.subject.split(".")[1])
            if decode is None:
                # Our own `finished`, or what a newer version tells.
                await msg.ack()
                continue
            try:
                deliveries.append((msg, decode(msg.data)))
            except (msgspec.MsgspecError, ValueError) as error:
                await self._bury(msg, str(error))
        return deliveries

    async def _write(self, events: Sequence[Event]) -> list[RunFinished]:
        missed = [event for event in events if isinstance(event, RunMissed)]
        say_missed(missed, await self._history.write_missed(missed))
        return await self._store.write([event for event in events if not isinstance(event, RunMissed)])

    async def _tell(self, finished: RunFinished) -> None:
        # Told twice, after a crash or by two cachers, it is stored once.
        identity = f"finished-{finished.run_id}-{finished.request_id}"
        await self._bus.publish(subjects.run("finished", finished.job), finished, message_id=identity)
        if await self._store.published(finished):
            say_finished(finished)
