"""`price.>`: every event into Postgres, then Redis, then acknowledged. While one batch is being written the next is read."""

import asyncio
from collections.abc import Sequence

import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram

from contracts.price_events import PriceQuarantined
from services.cacher.corrections import publish_corrections
from services.cacher.dead_letters import Undertaker
from services.cacher.linger import linger
from services.cacher.patience import Patience, StoppedError, give_back
from services.cacher.read_event import EventReader, MalformedEventError, Observed
from services.cacher.store_postgres import PostgresStore, Written
from services.cacher.store_redis import RedisStore
from services.runtime.bus import Bus
from services.runtime.puller import Puller, kept_alive
from services.runtime.settings import CacherSettings

BATCHES_AT_ONCE = 3
WRITERS = 1
PULL_S = 0.5
HISTORY_BYTES = 8 * 1024
LINGER_S, LINGER_STEP_S = 0.2, 0.04
LAST_CHANCE_S = 1.2
REDELIVER_S = 5.0
EVENTS = Counter("quotebus_cacher_events_total", "Price events stored.")
BARS = Counter("quotebus_cacher_bars_changed_total", "Bars inserted or changed.")
BATCH_S = Histogram("quotebus_cacher_batch_seconds", "From the first attempt to write a batch until it is stored.")

Delivery = tuple[Msg, Observed | PriceQuarantined]

log = structlog.get_logger()


class PriceEvents:
    """Stores the events of PRICES, batch by batch."""

    def __init__(self, bus: Bus, store: PostgresStore, redis: RedisStore | None, settings: CacherSettings) -> None:
        self._bus = bus
        self._store = store
        self._redis = redis
        self._settings = settings
        self._bury = Undertaker(bus)
        self._reader = EventReader()
        self._room = asyncio.Semaphore(BATCHES_AT_ONCE)
        self._writing = asyncio.Semaphore(WRITERS)
        self._finishing = asyncio.Lock()
        self._batches: dict[asyncio.Task[None], Sequence[Msg]] = {}

    async def run(self, puller: Puller, patience: Patience, stop: asyncio.Event) -> None:
        """Store events until stopped; then what is in hand is finished, or goes back to the stream at once."""
        try:
            while not stop.is_set():
                await self._room.acquire()
                messages = [] if stop.is_set() else await self._next(puller)
                if messages:
                    batch = asyncio.create_task(self._handle(messages, patience))
                    self._batches[batch] = messages
                    batch.add_done_callback(self._batches.pop)
                else:
                    self._room.release()
        finally:
            await self._end()
            await puller.close()

    async def _next(self, puller: Puller) -> list[Msg]:
        """The next batch: news at once, history when no more of it comes for now."""
        batch = self._settings.batch_events
        if not await puller.wait(PULL_S, batch):
            return []
        await linger(puller, batch, LINGER_STEP_S, LINGER_S, _is_history)
        return await puller.pull(batch, 0)

    async def _end(self) -> None:
        if self._batches:
            await asyncio.wait(self._batches, timeout=LAST_CHANCE_S)
        left = dict(self._batches)
        for batch, messages in left.items():
            # Before the transaction is undone, which may take as long as Postgres likes.
            await give_back(messages)
            batch.cancel()
        if left:
            await asyncio.wait(left, timeout=0.5)

    async def _handle(self, messages: Sequence[Msg], patience: Patience) -> None:
        """Take one batch all the way. There is room for another when it is stored, so that Redis never holds up Postgres."""
        try:
            async with kept_alive(messages, self._settings.ack_wait_s):
                try:
                    deliveries = await self._read(messages)
                    async with self._writing:
                        with BATCH_S.time():
                            written = await patience.store_each(deliveries, self._store.write, self._bury)
                finally:
                    self._room.release()
                async with self._finishing:
                    await self._finish(deliveries, written)
        except StoppedError:
            pass
        except Exception as error:  # whatever it was, the events are still on the stream and come again
            log.warning("batch_goes_back", events=len(messages), error=repr(error))
            await give_back(messages, REDELIVER_S)
        finally:
            await give_back(messages)

    async def _read(self, messages: Sequence[Msg]) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for msg in messages:
            # The loop has other work too: feeding Postgres the batch before this one.
            await asyncio.sleep(0)
            try:
                event = self._reader.read(msg.subject, msg.data)
            except MalformedEventError as error:
                await self._bury(msg, str(error))
            else:
                if event is None:
                    await msg.ack()
                else:
                    deliveries.append((msg, event))
        return deliveries

    async def _finish(self, deliveries: Sequence[Delivery], batches: Sequence[Written]) -> None:
        for written in batches:
            if written.corrections:
                await publish_corrections(self._bus, self._store, written.corrections)
            if self._redis is not None:
                await self._redis.refresh(written.seen)
            BARS.inc(written.changed_bars)
        for msg, _ in deliveries:
            if not msg.is_acked:
                await msg.ack()
                EVENTS.inc()


def _is_history(msg: Msg) -> bool:
    """Whether it is so long that it must hold many bars, for which nobody waits as for a quote."""
    return len(msg.data) > HISTORY_BYTES
