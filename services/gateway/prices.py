"""A symbol's newest document as it lies in Redis, else made from PostgreSQL: passed on as bytes, never taken apart."""

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contracts.datasets import DOCUMENT_TTL_S
from services.gateway.answering import etag_of
from services.gateway.read_postgres import Store
from services.gateway.together import Together
from services.runtime.price_document import Document, bars_key, dataset_key, encode_document, ttl_s
from services.runtime.read_postgres import READERS, Connection, read_bars
from services.runtime.read_redis import DocumentCache
from services.runtime.settings import RedisSettings

# Of documents: a timeframe, for its bars, or a dataset.
Kind = str
Source = Literal["redis", "postgres"]
# Read again within so long, a document is passed on once more without asking Redis.
HELD_S = 0.25
_END = re.compile(rb'"as_of":"([0-9T:.Z-]{27})"\}$')
_END_BYTES = 40


@dataclass(frozen=True, slots=True)
class Found:
    """A document. `as_of`: the newest observation it holds, in seconds since the epoch."""

    body: bytes
    source: Source
    etag: str
    as_of: float
    kept_s: float

    def age_s(self, now: float) -> float:
        """How long ago that was."""
        return max(0.0, now - self.as_of)

    def stale(self, now: float) -> bool:
        """Whether that is longer ago than such a document is kept."""
        return now - self.as_of > self.kept_s


class Prices:
    """Finds documents. Whoever wants the same at the same time is served by one look."""

    def __init__(self, cache: DocumentCache, store: Store, settings: RedisSettings) -> None:
        self._cache = cache
        self._store = store
        self._settings = settings
        self._held: dict[tuple[Kind, str], Found] = {}
        self._held_since = 0.0
        self._in_redis = Together(cache.documents)
        self._in_postgres = {kind: Together(self._look(kind)) for kind in DOCUMENT_TTL_S}

    async def find(self, kind: Kind, symbol: str) -> Found | None:
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
            found = _found(await self._in_redis.get(self._key(kind, symbol)), "redis", ttl_s(self._settings, kind))
            # Else nothing is there, or something foreign under the key.
            found = found or _found(await self._in_postgres[kind].get(symbol), "postgres", ttl_s(self._settings, kind))
            if found is not None:
                self._held[key] = found
        return found

    def _key(self, kind: Kind, symbol: str) -> str:
        return dataset_key(self._settings, kind, symbol) if kind in READERS else bars_key(self._settings, symbol, kind)

    def _look(self, kind: Kind) -> Callable[[Sequence[str]], Awaitable[Mapping[str, bytes]]]:
        async def look(symbols: Sequence[str]) -> Mapping[str, bytes]:
            async with self._store.connection() as connection:
                documents = await self._read(connection, kind, symbols)
            await self._cache.keep(documents)
            return {document.symbol: encode_document(document, compress=False) for document in documents}

        return look

    async def _read(self, connection: Connection, kind: Kind, symbols: Sequence[str]) -> Sequence[Document]:
        if kind in READERS:
            return await READERS[kind](connection, symbols)
        return await read_bars(connection, [(symbol, kind) for symbol in symbols], self._settings.lookback)


def _found(body: bytes | None, source: Source, kept_s: float) -> Found | None:
    end = _END.search(body[-_END_BYTES:]) if body else None
    if body is None or end is None:
        return None
    return Found(body, source, etag_of(body), datetime.fromisoformat(end[1].decode()).timestamp(), kept_s)
