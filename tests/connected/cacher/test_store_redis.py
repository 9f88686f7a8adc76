"""Redis holds what Postgres holds, never something older, and its trouble stays its own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from contracts.message import Message
from quotebus.embedded import RedisServer
from services.cacher.migrate import migrate
from services.cacher.store_postgres.prices import SERVER_SETTINGS, PostgresStore, WriteResult
from services.cacher.store_redis import RedisStore
from services.runtime.postgres import open_pool
from services.runtime.prices.document import document_json
from services.runtime.prices.read_redis import open_redis
from services.runtime.settings import PostgresSettings, RedisSettings, Secret
from tests.cacher.events import DAY, NOON, bars, chain, quote, read, volatility

KEY = "quotebus:price:AAPL:1d:500"


class Cache:
    """Postgres and Redis, with both stores on them."""

    def __init__(self, pool: asyncpg.Pool, client: Redis, settings: RedisSettings) -> None:
        self.store = PostgresStore(pool)
        self.client = client
        self.redis = RedisStore(client, pool, settings)

    async def write(self, *events: Message) -> WriteResult:
        written = await self.store.write(read(*events))
        await self.redis.refresh(written.updates)
        return written

    async def document(self, key: str = KEY) -> dict[str, object]:
        value = await self.client.get(key)
        return msgspec.json.decode(document_json(value)) if value else {}


@pytest.fixture(params=[False, True], ids=["plain", "zstd"])
async def cache(postgres_url: str, redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    await migrate(postgres_url)
    settings = RedisSettings(url=Secret(redis_url), compress=request.param, timeout_s=1.0)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool, open_redis(settings) as client:
        assert client is not None
        yield Cache(pool, client, settings)


async def test_the_document_is_columnar_and_has_a_ttl(cache: Cache) -> None:
    await cache.write(bars(volume=[1.0, None, 3.0]))
    document = await cache.document()
    assert (document["symbol"], document["timeframe"], document["currency"], document["provider"]) == ("AAPL", "1d", "USD", "yahoo")
    assert document["at"] == ["2024-01-02T00:00:00Z", "2024-01-03T00:00:00Z", "2024-01-04T00:00:00Z"]
    assert document["close"] == [10.0, 11.0, 12.0]
    assert document["volume"] == [1.0, None, 3.0]
    assert (document["basis"], document["feed"], document["real"]) == ("split", "delayed", 1)
    assert document["as_of"] == "2024-03-04T12:00:00.000000Z"
    assert 3590 <= await cache.client.ttl(KEY) <= 3600


async def test_a_document_holds_the_newest_bars_up_to_the_lookback(cache: Cache) -> None:
    await cache.write(bars(closes=tuple(float(n) for n in range(1, 701))))
    assert (await cache.document())["close"] == [float(n) for n in range(201, 701)]


async def test_an_unchanged_refresh_makes_the_document_newer_without_writing_it_again(cache: Cache) -> None:
    await cache.write(bars())
    await cache.client.expire(KEY, 5)
    written = await cache.store.write(read(bars(minute=7)))
    cache.redis._read = None  # type: ignore[method-assign, assignment]
    stale = await cache.redis._confirm(written.updates)
    assert stale == []
    assert (await cache.document())["as_of"] == "2024-03-04T12:07:00.000000Z"
    assert (await cache.document())["close"] == [10.0, 11.0, 12.0]
    assert await cache.client.ttl(KEY) > 5


async def test_a_document_that_missed_an_observation_is_built_again(cache: Cache) -> None:
    await cache.write(bars())
    await cache.store.write(read(bars(closes=(10.0, 11.0, 15.0), minute=1)))  # Redis did not hear of this one
    await cache.write(bars(closes=(10.0, 11.0, 15.0), minute=2))
    assert (await cache.document())["close"] == [10.0, 11.0, 15.0]
    assert (await cache.document())["as_of"] == "2024-03-04T12:02:00.000000Z"


async def test_an_older_document_never_replaces_a_newer_one(cache: Cache) -> None:
    await cache.write(bars(minute=5))
    [older] = await cache.redis._read(list((await cache.store.write(read(bars(minute=6)))).updates))
    older.as_of = "2024-03-04T12:00:00.000000Z"
    await cache.redis._set([older])
    assert (await cache.document())["as_of"] == "2024-03-04T12:05:00.000000Z"


async def test_a_real_price_replaces_a_made_up_one_that_is_newer(cache: Cache) -> None:
    await cache.write(bars(closes=(1.0,), minute=60, feed="synthetic"))
    assert (await cache.document())["real"] == 0
    await cache.write(bars())
    await cache.write(bars(closes=(2.0,), minute=90, feed="synthetic"))
    assert (await cache.document())["close"] == [10.0, 11.0, 12.0]


async def test_a_series_that_was_left_behind_gives_way_to_a_fresh_one(cache: Cache) -> None:
    await cache.write(bars(closes=(1.0,)))
    later = NOON + timedelta(days=30)
    await cache.write(bars(closes=(2.0,), basis="raw", observed_at=later))
    assert (await cache.document())["close"] == [2.0]


async def test_quotes_chains_and_volatilities_are_documents_too(cache: Cache) -> None:
    await cache.write(quote(price=11.0), quote(price=12.0, minute=1), chain(), volatility(iv_30d=0.2), volatility(at=NOON - DAY))
    document = await cache.document("quotebus:quote:AAPL")
    assert (document["price"], document["bid"], document["as_of"]) == (12.0, None, "2024-03-04T12:01:00.000000Z")
    document = await cache.document("quotebus:chain:AAPL")
    assert (document["strike"], document["expiry"], document["right"]) == ([100.0, 110.0], ["2024-06-21"] * 2, ["call", "call"])
    assert 55 <= await cache.client.ttl("quotebus:quote:AAPL") <= 60
    assert 895 <= await cache.client.ttl("quotebus:chain:AAPL") <= 900
    document = await cache.document("quotebus:iv:AAPL")
    assert (document["iv_30d"], document["expiry"], document["iv"]) == (0.2, ["2024-04-03"], [0.2])
    assert (document["as_of"], document["chain_provider"]) == ("2024-03-04T12:00:00.000000Z", "cboe")
    assert 1795 <= await cache.client.ttl("quotebus:iv:AAPL") <= 1800


async def test_minutes_are_found_across_the_turn_of_a_month(cache: Cache) -> None:
    at = [NOON.replace(month=2, day=29, hour=23, minute=59), NOON.replace(day=1, hour=0, minute=0)]
    await cache.write(bars(closes=(1.0, 2.0), timeframe="1m", at=at))
    assert (await cache.document("quotebus:price:AAPL:1m:500"))["close"] == [1.0, 2.0]


async def test_a_key_that_holds_something_foreign_is_left_alone(cache: Cache) -> None:
    await cache.client.lpush(KEY, "mine")
    await cache.write(bars(), bars("MSFT"))
    assert await cache.client.lrange(KEY, 0, -1) == [b"mine"]
    assert await cache.document("quotebus:price:MSFT:1d:500") != {}
    assert not cache.redis.breaker.open


@asynccontextmanager
async def cached_in(server: RedisServer, postgres_url: str) -> AsyncIterator[Cache]:
    await migrate(postgres_url)
    settings = RedisSettings(url=Secret(server.url))
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool, open_redis(settings) as client:
        assert client is not None
        yield Cache(pool, client, settings)


async def test_a_redis_that_dies_is_left_alone_until_it_is_back(postgres_url: str, tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "redis") as server, cached_in(server, postgres_url) as cache:
        now = 0.0
        cache.redis.breaker._clock = lambda: now
        await server.kill()
        for minute in range(4):
            await cache.write(bars(minute=minute))
        assert cache.redis.breaker.open
        await server.start()
        await cache.write(bars(minute=5))
        assert await cache.document() == {}
        now += 60
        await cache.write(bars(minute=6))
        assert not cache.redis.breaker.open
        assert (await cache.document())["as_of"] == "2024-03-04T12:06:00.000000Z"


async def test_a_redis_that_hangs_costs_a_moment_and_is_then_left_alone(postgres_url: str, tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "redis") as server, cached_in(server, postgres_url) as cache:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                for minute in range(50):
                    await cache.write(bars(closes=(10.0 + minute,), minute=minute))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert cache.redis.breaker.open
        assert await cache.redis._pool.fetchval("SELECT close FROM price_bars") == 59.0


async def test_a_redis_that_is_full_is_left_alone(postgres_url: str, tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "redis", max_memory="256kb") as server, cached_in(server, postgres_url) as cache:
        for minute in range(4):
            await cache.write(bars(minute=minute))
        assert cache.redis.breaker.open
        assert await cache.redis._pool.fetchval("SELECT count(*) FROM price_bars") == 3
