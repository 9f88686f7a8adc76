"""From a made-up or played market to a person's screen, through everything, as the README tells it."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncpg
import nats
import psutil
from redis.asyncio import Redis

from contracts import subjects
from contracts.refresh_request import RefreshRequest
from tests.connected.deployment import deployed, until
from tests.connected.fake_yahoo import PlayedYahoo
from tests.connected.quotebus.up_process import quotebus, started


def holds(url: str, query: str, *args: object) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        connection = await asyncpg.connect(url)
        try:
            return bool(await connection.fetchval(query, *args))
        finally:
            await connection.close()

    return look


async def test_one_command_shows_stores_and_streams_prices_and_leaves_nothing_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with started(data) as (process, at):
        bus = await nats.connect(at["nats"])
        subscription = await bus.subscribe("price.quote.AAPL")
        await bus.flush()
        code, said = await quotebus(data, "refresh", "AAPL", "BRK.B", "--wait", "-o", "ndjson")
        assert code == 0
        assert {json.loads(line)["outcome"] for line in said.splitlines()} == {"refreshed"}
        assert json.loads((await subscription.next_msg(20)).data)["feed"] == "synthetic"
        await bus.close()
        await until(holds(at["postgres"], "SELECT count(*) >= 500 FROM price_bars WHERE symbol = 'BRK.B' AND timeframe = '1d'"))
        async with Redis.from_url(at["redis"]) as redis:
            document = json.loads(await redis.get("quotebus:price:AAPL:1d:500"))
            assert len(document["close"]) == 500
            assert 0 < await redis.ttl("quotebus:price:AAPL:1d:500") <= 3600
        async with aiohttp.ClientSession(at["http"]) as session:
            async with session.get("/prices/AAPL?timeframe=1d") as answer:
                assert (answer.status, (await answer.json())["feed"]) == (200, "synthetic")
            async with session.post(
                "/scheduler/jobs", json={"name": "x", "stock_ids": ["IBM"], "schedule_time": "17:00"}
            ) as answer:
                assert answer.status == 201, "nobody needs a token on this machine"
            async with session.post("/refresh", json={"symbols": ["IBM"]}, headers={"Origin": "http://evil.example"}) as answer:
                assert answer.status == 403, "but a page of somebody else's does"
        code, said = await quotebus(data, "price", "AAPL", "-o", "json")
        assert (code, json.loads(said)[0]["provider"]) == (0, "synthetic")
        code, said = await quotebus(data, "doctor", "-o", "json")
        assert code == 0, said
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 6) == 0
        assert not any(child.is_running() for child in family)
        assert not (data / "endpoints.json").exists()
    async with started(data) as (_, at):
        assert await holds(at["postgres"], "SELECT count(*) >= 500 FROM price_bars WHERE symbol = 'BRK.B'")()


async def test_a_vendors_answer_is_in_postgres_and_redis_to_the_digit(tmp_path: Path) -> None:
    async with PlayedYahoo(rows=30).serve() as yahoo:
        environment = {"QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": yahoo.url}
        async with deployed(tmp_path, ("fetcher", "cacher"), environment) as deployment:
            await deployment.bus.nc.publish(subjects.refresh_request("manual"), b'{"symbols":["BRK.B"]}')
            await deployment.bus.publish(subjects.refresh_request("manual"), RefreshRequest(symbols=["^GSPC"]))
            count = "SELECT count(DISTINCT symbol) = 2 FROM price_bars"
            await until(holds(deployment.postgres.url, count))
            rows = await deployment.rows(
                "SELECT at, open, high, low, close, volume FROM price_bars WHERE symbol = 'BRK.B' ORDER BY at"
            )
            assert deployment.redis is not None
            async with Redis.from_url(deployment.redis.url) as redis:
                await until(lambda: _known(redis, "quotebus:price:BRK.B:1d:500"))
                document = json.loads(await redis.get("quotebus:price:BRK.B:1d:500"))
    assert [row["close"] for row in rows] == document["close"] == [100.0 + i for i in range(30)]
    assert [row["volume"] for row in rows] == document["volume"] == [1_000 + i for i in range(30)]
    assert f"{rows[0]['at']:%Y-%m-%dT%H:%M:%SZ}" == document["at"][0] == "2026-01-02T00:00:00Z"
    assert set(yahoo.asked) == {"BRK-B", "^GSPC"}


async def _known(redis: Redis, key: str) -> bool:
    return bool(await redis.exists(key))
