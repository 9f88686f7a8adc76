"""`symbol.health`: the health of each symbol with each provider, stored for readers."""

from nats.aio.msg import Msg
from typing_extensions import override

from contracts.message import decode
from contracts.symbol_health import SymbolHealth
from services.cacher.store_postgres.symbol_health import SequencedHealth, SymbolStore
from services.cacher.write_batch import BatchWriter
from services.runtime.consumer import Batch, Handler

BATCH_EVENTS = 256


class SymbolEvents(Handler[SequencedHealth]):
    """Handler of SYMBOLS."""

    def __init__(self, store: SymbolStore, writer: BatchWriter) -> None:
        self._store = store
        self._writer = writer

    @override
    def decode(self, msg: Msg) -> SequencedHealth:
        return SequencedHealth(decode(msg.data, SymbolHealth), msg.metadata.sequence.stream)

    @override
    async def handle(self, batch: Batch[SequencedHealth]) -> None:
        await self._writer.write(batch.events, self._store.write)
