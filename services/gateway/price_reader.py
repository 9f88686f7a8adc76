"""Price reader: a symbol's newest document from Redis, else built from PostgreSQL; passed on as bytes, never taken apart."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from contracts.datasets import DOCUMENT_TTL_S
from services.gateway.read_postgres import Store
from services.gateway.response import etag_of
from services.runtime.prices.document import Document, bars_key, dataset_key, encode_document, ttl_s
from services.runtime.prices.read_postgres import DOCUMENT_READERS, Connection, read_bars
from services.runtime.prices.read_redis import DocumentCache
from services.runtime.settings import RedisSettings

# Of documents: a timeframe, for its bars, or a dataset.
Kind = str
Source = Literal["redis", "postgres"]
# Read again within so long, a document is passed on once more without asking Redis.
HELD_S = 0.25
# So many keys the loader looks up at once.
MOST_AT_ONCE = 64
V = TypeVar("V")
_END = re.compile(rb'"as_of":"([0-9T:.Z-]{27})"\}$')
_END_BYTES = 40


@dataclass(frozen=True, slots=True)
class CachedDocument:
    """A document. `as_of`: the newest observation it holds, in seconds since the epoch."""

    body: bytes
    source: Source
    etag: str
    as_of: float
    kept_s: float

    def age_s(self, now: float) -> float:
        """Age in seconds of the newest observation."""
        return max(0.0, now - self.as_of)

    def stale(self, now: float) -> bool:
        """True if the document is older than its time to live."""
        return now - self.as_of > self.kept_s


class PriceReader:
    """Reads price documents from Redis, else from PostgreSQL; concurrent readers of one share a single look-up."""

    def __init__(self, cache: DocumentCache, store: Store, settings: RedisSettings) -> None:
        self._cache = cache
        self._store = store
        self._settings = settings
        self._held: dict[tuple[Kind, str], CachedDocument] = {}
        self._held_since = 0.0
        self._in_redis = BatchLoader(cache.documents)
        self._in_postgres = {kind: BatchLoader(self._look(kind)) for kind in DOCUMENT_TTL_S}

    async def find(self, kind: Kind, symbol: str) -> CachedDocument | None:
        """The document of this symbol; `kind`: a timeframe, for its bars, or a dataset.

        Raises:
            Problem: 503, if PostgreSQL has to be asked and does not answer.
        """
        now = time.monotonic()
        if now - self._held_since > HELD_S:
            self._held, self._held_since = {}, now
        key = kind, symbol
        found = self._held.get(key)
        if found is None:
            found = _cached_document(await self._in_redis.get(self._key(kind, symbol)), "redis", ttl_s(self._settings, kind))
            # Else nothing is there, or something foreign under the key.
            found = found or _cached_document(await self._in_postgres[kind].get(symbol), "postgres", ttl_s(self._settings, kind))
            if found is not None:
                self._held[key] = found
        return found

    def _key(self, kind: Kind, symbol: str) -> str:
        return dataset_key(self._settings, kind, symbol) if kind in DOCUMENT_READERS else bars_key(self._settings, symbol, kind)

    def _look(self, kind: Kind) -> Callable[[Sequence[str]], Awaitable[Mapping[str, bytes]]]:
        async def look(symbols: Sequence[str]) -> Mapping[str, bytes]:
            async with self._store.connection() as connection:
                documents = await self._read(connection, kind, symbols)
            await self._cache.put_if_newer(documents)
            return {document.symbol: encode_document(document, compress=False) for document in documents}

        return look

    async def _read(self, connection: Connection, kind: Kind, symbols: Sequence[str]) -> Sequence[Document]:
        if kind in DOCUMENT_READERS:
            return await DOCUMENT_READERS[kind](connection, symbols)
        return await read_bars(connection, [(symbol, kind) for symbol in symbols], self._settings.lookback)


def _cached_document(body: bytes | None, source: Source, kept_s: float) -> CachedDocument | None:
    end = _END.search(body[-_END_BYTES:]) if body else None
    if body is None or end is None:
        return None
    return CachedDocument(body, source, etag_of(body), datetime.fromisoformat(end[1].decode()).timestamp(), kept_s)


class BatchLoader(Generic[V]):
    """Single-flight batching: look-ups that come while one is under way are asked together, each key once."""

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._ask = ask
        self._waiting: dict[str, asyncio.Future[V | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, key: str) -> V | None:
        """The answer for this key; none when there is none.

        Raises:
            Exception: what `ask` raised.
        """
        loop = asyncio.get_running_loop()
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = loop.create_future()
            if self._asking is None:
                self._asking = loop.create_task(self._work())
        # One who goes away takes the answer from nobody else.
        return await asyncio.shield(future)

    async def _work(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:MOST_AT_ONCE]
                futures = [self._waiting.pop(key) for key in keys]
                try:
                    found = await self._ask(keys)
                except Exception as error:
                    _fail(futures, error)
                else:
                    for key, future in zip(keys, futures, strict=True):
                        future.set_result(found.get(key))
        finally:
            self._asking = None


def _fail(futures: Sequence["asyncio.Future[V | None]"], error: Exception) -> None:
    for future in futures:
        future.set_exception(error)
        # Those who wait see it; if all have gone away, nobody needs to.
        future.exception()
