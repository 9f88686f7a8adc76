"""`symbol.health`: how each symbol stands with each provider, kept for readers."""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog
from nats.aio.msg import Msg

from contracts.message import decode
from contracts.symbol_health import SymbolHealth
from services.cacher.dead_letters import Undertaker
from services.cacher.patience import Patience, StoppedError, give_back
from services.cacher.store_postgres_symbols import SymbolStore, Told
from services.runtime.bus import Bus
from services.runtime.puller import Puller, kept_alive

BATCH_EVENTS = 256
PULL_S = 0.5
REDELIVER_S = 5.0

log = structlog.get_logger()


class SymbolEvents:
    """Stores the messages of SYMBOLS."""

    def __init__(self, bus: Bus, store: SymbolStore, ack_wait_s: float) -> None:
        self._store = store
        self._ack_wait_s = ack_wait_s
        self._bury = Undertaker(bus)

    async def run(self, puller: Puller, patience: Patience, stop: asyncio.Event) -> None:
        """Store them until stopped; what is in hand then goes back to the stream."""
        try:
            while not stop.is_set():
                if messages := await puller.pull(BATCH_EVENTS, PULL_S):
                    await self._handle(messages, patience)
        finally:
            await puller.close()

    async def _handle(self, messages: Sequence[Msg], patience: Patience) -> None:
        try:
            async with kept_alive(messages, self._ack_wait_s):
                await patience.store_each(await self._read(messages), self._store.write, self._bury)
                for msg in messages:
                    if not msg.is_acked:
                        await msg.ack()
        except StoppedError:
            pass
        except Exception as error:  # whatever it was, the messages are still on the stream and come again
            log.warning("symbol_events_go_back", events=len(messages), error=repr(error))
            await give_back(messages, REDELIVER_S)
        finally:
            await give_back(messages)

    async def _read(self, messages: Sequence[Msg]) -> list[tuple[Msg, Told]]:
        deliveries = []
        for msg in messages:
            try:
                told = Told(decode(msg.data, SymbolHealth), msg.metadata.sequence.stream)
            except (msgspec.MsgspecError, ValueError) as error:
                await self._bury(msg, str(error))
            else:
                deliveries.append((msg, told))
        return deliveries
