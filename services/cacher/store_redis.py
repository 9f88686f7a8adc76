"""Redis, the fast copy: best effort, newer only. Its trouble is never anybody else's."""

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.cacher.decode_event import SeriesKey
from services.cacher.store_postgres.prices import SeriesUpdate
from services.runtime.circuit_breaker import CircuitBreaker
from services.runtime.postgres import POSTGRES_UNAVAILABLE
from services.runtime.prices.document import (
    VERSION_SUFFIX_BYTES,
    Document,
    bars_key,
    document_key,
    document_kind,
    encode_document,
    ttl_s,
    version_suffix,
)
from services.runtime.prices.read_postgres import DOCUMENT_READERS, read_bars
from services.runtime.prices.read_redis import BULK_TIMEOUTS, SET_NEWER
from services.runtime.settings import RedisSettings

DOCUMENTS_AT_ONCE = 16
# Only what shows this series as it was just before: then nothing but its age has changed.
_CONFIRM = """
if redis.call('GETRANGE', KEYS[1], -#ARGV[1], -1) ~= ARGV[1] then return 0 end
redis.call('SETRANGE', KEYS[1], redis.call('STRLEN', KEYS[1]) - #ARGV[2], ARGV[2])
return redis.call('EXPIRE', KEYS[1], ARGV[3])"""

log = structlog.get_logger()


class RedisStore:
    """Keeps the documents of what was just written."""

    def __init__(self, client: Redis, pool: asyncpg.Pool, settings: RedisSettings) -> None:
        self._client = client
        self._pool = pool
        self._settings = settings
        self.breaker = CircuitBreaker("redis", asyncio.get_running_loop().time)

    async def refresh(self, seen: Mapping[SeriesKey, SeriesUpdate]) -> None:
        """Bring Redis up to date with Postgres for these series, as far as it lets itself be. Never raises for its failures."""
        if not seen or not self.breaker.allow():
            return
        try:
            documents = await self._read(await self._confirm(seen))
            for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
                await self._set(documents[first : first + DOCUMENTS_AT_ONCE])
        except (RedisError, OSError, TimeoutError) as error:
            self.breaker.record_failure(error)
        else:
            self.breaker.record_success()

    async def _confirm(self, seen: Mapping[SeriesKey, SeriesUpdate]) -> list[SeriesKey]:
        """Tell documents whose bars have not changed that they are newer now, and give the series that need more than that."""
        same = [(key, one) for key, one in seen.items() if key.dataset == "bars" and one.before is not None and not one.changed]
        calls: list[tuple[str, str, Sequence[bytes | int]]] = []
        for key, one in same:
            before, now = (version_suffix(key.basis, key.feed, at) for at in (one.before or one.newest, one.newest))
            where = bars_key(self._settings, key.symbol, key.timeframe)
            calls.append((_CONFIRM, where, (before, now, ttl_s(self._settings, key.timeframe))))
        confirmed = {key for (key, _), done in zip(same, await self._run(calls), strict=True) if done}
        return [key for key in seen if key not in confirmed]

    async def _read(self, keys: Sequence[SeriesKey]) -> list[Document]:
        bars = {(key.symbol, key.timeframe) for key in keys if key.dataset == "bars"}
        others = {dataset: symbols for dataset in DOCUMENT_READERS if (symbols := [k.symbol for k in keys if k.dataset == dataset])}
        documents: list[Document] = []
        if not (bars or others):
            return documents
        try:
            async with self._pool.acquire(timeout=5) as connection:
                documents += await read_bars(connection, sorted(bars), self._settings.lookback) if bars else []
                for dataset, symbols in others.items():
                    documents += await DOCUMENT_READERS[dataset](connection, symbols)
        except POSTGRES_UNAVAILABLE as error:
            # Not Redis's fault; the rows are stored, and whoever misses a document builds it himself.
            log.info("documents_not_read", error=str(error) or type(error).__name__)
        return documents

    async def _set(self, documents: Sequence[Document]) -> None:
        calls: list[tuple[str, str, Sequence[bytes | int]]] = []
        for document in documents:
            value = encode_document(document, compress=self._settings.compress)
            ttl = ttl_s(self._settings, document_kind(document))
            calls.append((SET_NEWER, document_key(self._settings, document), (value, ttl, value[-VERSION_SUFFIX_BYTES:])))
        await self._run(calls)

    async def _run(self, calls: Sequence[tuple[str, str, Sequence[bytes | int]]]) -> list[int]:
        if not calls:
            return []
        async with (
            asyncio.timeout(BULK_TIMEOUTS * self._settings.timeout_s),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for script, key, arguments in calls:
                pipeline.eval(script, 1, key, *arguments)
            results = await pipeline.execute(raise_on_error=False)
        for result in results:
            # A key that holds something foreign is left as it is; any other error is Redis's own trouble.
            if isinstance(result, Exception) and "WRONGTYPE" not in str(result):
                raise result
        return [0 if isinstance(result, Exception) else int(result) for result in results]
