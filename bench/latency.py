"""How long one price takes: from the request to its event, and from the event to Redis and Postgres."""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import aiohttp
import asyncpg
from redis.asyncio import Redis

from bench.report import Figure
from bench.vendor import vendor
from contracts import subjects
from contracts.price_events import PriceQuote
from tests.connected.deployment import Deployment, deployed

REQUESTS, EVENTS, EVENTS_PER_S = 200, 2000, 200
# On the way from request to event, each waited for: the request, the plan's announcement, the task.
ACKS_ON_THE_WAY = 3


async def figures() -> list[Figure]:
    """Both ways, in milliseconds."""
    with vendor(20) as url, TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            "QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": url,
            "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0",
            "QUOTEBUS_LOG__LEVEL": "warning",
        }
        async with deployed(folder, ("fetcher", "cacher"), environment, fast=False) as deployment:
            own, sync = await _provider_ms(url), _sync_ms(folder)
            asked = await _request_to_event(deployment)
            stored, copied = await _event_to_readable(deployment)
    beyond = [took - median(own) - ACKS_ON_THE_WAY * sync for took in asked]
    note = f"of {median(asked):.1f} ms: the provider's {median(own):.1f}, {ACKS_ON_THE_WAY} fsyncs of {sync:.2f}"
    return [
        Figure("request → event, ms beyond provider and fsyncs, p50", median(beyond), 5, note, at_most=True),
        Figure("request → event, ms beyond provider and fsyncs, p99", _p99(beyond), 20, at_most=True),
        Figure("event → Postgres, ms, p50", median(stored), 15, f"{EVENTS_PER_S} events/s", at_most=True),
        Figure("event → Postgres, ms, p99", _p99(stored), 50, at_most=True),
        Figure("event → Redis, ms, p50", median(copied), 15, at_most=True),
        Figure("event → Redis, ms, p99", _p99(copied), 50, at_most=True),
    ]


async def _request_to_event(deployment: Deployment) -> list[float]:
    came: asyncio.Queue[float] = asyncio.Queue()
    took = []

    async def note(_: object) -> None:
        came.put_nowait(time.perf_counter())

    subscription = await deployment.bus.nc.subscribe("price.bars.1d.*", cb=note)
    for number in range(REQUESTS):
        began = time.perf_counter()
        await deployment.bus.nc.publish(subjects.refresh_request("manual"), b'{"symbols":["L%03d"]}' % number)
        took.append(1000 * (await asyncio.wait_for(came.get(), 30) - began))
        await asyncio.sleep(0.02)
    await subscription.unsubscribe()
    return took[10:]


async def _event_to_readable(deployment: Deployment) -> tuple[list[float], list[float]]:
    published: dict[str, float] = {}
    seen: dict[str, dict[str, float]] = {"postgres": {}, "redis": {}}
    assert deployment.redis is not None
    async with Redis.from_url(deployment.redis.url) as redis:
        connection = await asyncpg.connect(deployment.postgres.url)

        async def look(where: str) -> None:
            while len(seen[where]) < EVENTS:
                waiting = [symbol for symbol in published if symbol not in seen[where]]
                if waiting and where == "postgres":
                    rows = await connection.fetch("SELECT symbol FROM price_quotes WHERE symbol = ANY ($1)", waiting)
                    there = [row["symbol"] for row in rows]
                elif waiting:
                    values = await redis.mget([f"quotebus:quote:{symbol}" for symbol in waiting])
                    there = [symbol for symbol, value in zip(waiting, values, strict=True) if value]
                else:
                    there = []
                seen[where] |= dict.fromkeys(there, time.perf_counter())
                await asyncio.sleep(0.002)

        looking = [asyncio.create_task(look(where)) for where in seen]
        began = time.perf_counter()
        for number in range(EVENTS):
            await asyncio.sleep(max(0.0, began + number / EVENTS_PER_S - time.perf_counter()))
            symbol, now = f"Q{number:04d}", datetime.now(UTC)
            quote = PriceQuote(
                symbol=symbol, provider="yahoo", feed="delayed", observed_at=now, fetched_at=now, currency="USD", at=now, price=10.0
            )
            published[symbol] = time.perf_counter()
            await deployment.bus.publish(subjects.price("quote", None, symbol), quote)
        await asyncio.wait_for(asyncio.gather(*looking), 60)
        await connection.close()
    waits = ([1000 * (at - published[symbol]) for symbol, at in seen[where].items()] for where in ("postgres", "redis"))
    return next(waits), next(waits)


async def _provider_ms(url: str) -> list[float]:
    took = []
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            began = time.perf_counter()
            async with session.get(f"{url}/v8/finance/chart/X") as answer:
                await answer.read()
            took.append(1000 * (time.perf_counter() - began))
    return took


def _sync_ms(folder: Path) -> float:
    took = []
    with (folder / "sync").open("wb") as file:
        for _ in range(100):
            began = time.perf_counter()
            file.write(bytes(500))
            file.flush()
            os.fsync(file.fileno())
            took.append(1000 * (time.perf_counter() - began))
    return median(took)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]
