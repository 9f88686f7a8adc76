"""`price.>`: every event into Postgres, then Redis, then acknowledged. While one batch is being written the next is read."""

import asyncio
from collections.abc import Sequence

from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram
from typing_extensions import override

from contracts.price_events import PriceQuarantined
from services.cacher.corrections import publish_corrections
from services.cacher.decode_event import DecodedEvent, EventDecoder
from services.cacher.store_postgres.prices import PostgresStore, WriteResult
from services.cacher.store_redis import RedisStore
from services.cacher.write_batch import BatchWriter
from services.runtime.bus import Bus
from services.runtime.consumer import Batch, Handler
from services.runtime.puller import BatchWait

BATCHES_AT_ONCE = 3
WRITERS = 1
HISTORY_BYTES = 8 * 1024
EVENTS = Counter("quotebus_cacher_events_total", "Price events stored.")
BARS = Counter("quotebus_cacher_bars_changed_total", "Bars inserted or changed.")
BATCH_S = Histogram("quotebus_cacher_batch_seconds", "From the first attempt to write a batch until it is stored.")

Event = DecodedEvent | PriceQuarantined


def _is_history(msg: Msg) -> bool:
    """True for a message so long that it must hold many bars, for which nobody waits as for a quote."""
    return len(msg.data) > HISTORY_BYTES


BATCH_WAIT = BatchWait(step_s=0.04, most_s=0.2, may_wait=_is_history)


class PriceEvents(Handler[Event]):
    """Handler of PRICES."""

    def __init__(self, bus: Bus, store: PostgresStore, redis: RedisStore | None, writer: BatchWriter) -> None:
        self._bus = bus
        self._store = store
        self._redis = redis
        self._writer = writer
        self._reader = EventDecoder()
        self._writing = asyncio.Semaphore(WRITERS)
        self._finishing = asyncio.Lock()

    @override
    def decode(self, msg: Msg) -> Event | None:
        return self._reader.decode(msg.subject, msg.data)

    @override
    async def handle(self, batch: Batch[Event]) -> None:
        """Take one batch all the way. There is room for another when it is stored, so that Redis never holds up Postgres."""
        events: Sequence[Event] = batch.events
        async with self._writing:
            with BATCH_S.time():
                written = await self._writer.write(events, self._store.write)
        batch.release_slot()
        async with self._finishing:
            await self._finish(written)
        EVENTS.inc(len(events))

    async def _finish(self, written: WriteResult) -> None:
        if written.corrections:
            await publish_corrections(self._bus, self._store, written.corrections)
        if self._redis is not None:
            await self._redis.refresh(written.updates)
        BARS.inc(written.changed_bars)
