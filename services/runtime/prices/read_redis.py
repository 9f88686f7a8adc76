"""The price documents in Redis, read without patience: whoever asks has PostgreSQL to turn to."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import zstandard
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.runtime.circuit_breaker import CircuitBreaker
from services.runtime.prices.document import (
    VERSION_SUFFIX_BYTES,
    BarsDocument,
    Document,
    QuoteDocument,
    bars_key,
    dataset_key,
    decode_bars,
    document_json,
    document_key,
    document_kind,
    encode_document,
    ttl_s,
)
from services.runtime.settings import RedisSettings

# Many documents in one command may take this many times as long as one.
BULK_TIMEOUTS = 5
# The document's end tells how new it is. Not older than the one there: parts of one answer share an instant.
SET_NEWER = """
if redis.call('GETRANGE', KEYS[1], -#ARGV[3], -1) > ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1"""


class RedisUnreadableError(Exception):
    """Redis did not answer, or not with what it should hold; the text says which."""


@asynccontextmanager
async def open_redis(settings: RedisSettings) -> AsyncIterator[Redis | None]:
    """Give a client that fails fast and never tries again by itself; none when the settings name no Redis."""
    if settings.url is None:
        yield None
        return
    pool = BlockingConnectionPool.from_url(
        settings.url.get_secret_value(),
        max_connections=4,
        timeout=settings.timeout_s,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    client = Redis.from_pool(pool)
    try:
        yield client
    finally:
        await client.aclose()


class DocumentCache:
    """Redis for a reader that stays: many documents at once, and left alone for a while when it fails."""

    def __init__(self, client: Redis | None, settings: RedisSettings) -> None:
        self._client = client
        self._settings = settings
        self._breaker = CircuitBreaker("redis", asyncio.get_running_loop().time)

    async def documents(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """The JSON of those that are there. Redis's failures look like nothing being there."""
        if self._client is None or not self._breaker.allow():
            return {}
        try:
            values = await self._client.mget(keys)
        except (RedisError, OSError, TimeoutError) as error:
            self._breaker.record_failure(error)
            return {}
        self._breaker.record_success()
        found = {}
        for key, value in zip(keys, values, strict=True):
            try:
                if isinstance(value, bytes):
                    found[key] = document_json(value)
            except zstandard.ZstdError:
                continue  # something foreign stands under the key
        return found

    async def put_if_newer(self, documents: Iterable[Document]) -> None:
        """Put documents there that were missing, as the cacher does: only where there is none that is newer."""
        if self._client is None or not self._breaker.allow():
            return
        try:
            async with (
                asyncio.timeout(BULK_TIMEOUTS * self._settings.timeout_s),
                self._client.pipeline(transaction=False) as pipeline,
            ):
                for document in documents:
                    value = encode_document(document, compress=self._settings.compress)
                    ttl = ttl_s(self._settings, document_kind(document))
                    pipeline.eval(
                        SET_NEWER, 1, document_key(self._settings, document), value, str(ttl), value[-VERSION_SUFFIX_BYTES:]
                    )
                await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            self._breaker.record_failure(error)


async def read_price(settings: RedisSettings, symbol: str, timeframe: str | None) -> BarsDocument | QuoteDocument | None:
    """The document of a symbol's bars, or of its quote without a timeframe; none when Redis has none.

    Raises:
        RedisUnreadableError: Redis did not answer, or holds something else under the key.
    """
    if settings.url is None:
        return None
    key = bars_key(settings, symbol, timeframe) if timeframe else dataset_key(settings, "quote", symbol)
    try:
        value = await _get(settings, settings.url.get_secret_value(), key)
        if value is None:
            return None
        body = document_json(value)
        return decode_bars(body) if timeframe else msgspec.json.decode(body, type=QuoteDocument)
    except (RedisError, OSError, ValueError) as error:
        raise RedisUnreadableError(f"Redis: {str(error) or type(error).__name__}") from None
    except (msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise RedisUnreadableError(f"Redis holds no price under {key}: {error}") from None


async def ping(settings: RedisSettings) -> bool:
    """Ping Redis; False if it is not configured.

    Raises:
        RedisUnreadableError: it is not; the text says why.
    """
    if settings.url is None:
        return False
    try:
        async with _client(settings, settings.url.get_secret_value()) as redis:
            return bool(await redis.ping())
    except (RedisError, OSError, ValueError) as error:
        raise RedisUnreadableError(str(error) or type(error).__name__) from None


async def _get(settings: RedisSettings, url: str, key: str) -> bytes | None:
    async with _client(settings, url) as redis:
        value = await redis.get(key)
        return value.encode() if isinstance(value, str) else value


def _client(settings: RedisSettings, url: str) -> Redis:
    patience_s = settings.timeout_s
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=patience_s, socket_connect_timeout=patience_s)
