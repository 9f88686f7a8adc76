"""The price documents in Redis, read one at a time and without patience: whoever asks has PostgreSQL to turn to."""

import msgspec
import zstandard
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.runtime.price_document import BarsDocument, QuoteDocument, bars_key, dataset_key, document_json
from services.runtime.settings import RedisSettings


class RedisUnreadableError(Exception):
    """Redis did not answer, or not with what it should hold; the text says which."""


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
        return msgspec.json.decode(body, type=BarsDocument) if timeframe else msgspec.json.decode(body, type=QuoteDocument)
    except (RedisError, OSError, ValueError) as error:
        raise RedisUnreadableError(f"Redis: {str(error) or type(error).__name__}") from None
    except (msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise RedisUnreadableError(f"Redis holds no price under {key}: {error}") from None


async def answers(settings: RedisSettings) -> bool:
    """Whether Redis is there.

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
