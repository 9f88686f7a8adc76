"""What a price from the cache costs over HTTP: requests a second against a bare aiohttp handler that answers the same bytes."""

import asyncio
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from aiohttp import web
from redis.asyncio import Redis

from bench.report import Figure
from contracts.price_events import BAR_COLUMNS
from quotebus.embedded import free_port
from quotebus.stack.supervisor import ServiceProcess
from services.runtime.prices.document import BarsDocument, as_of_text, bars_key, encode_document
from services.runtime.settings import RedisSettings
from tests.connected.deployment import Deployment, deployed

SYMBOLS, BARS, READERS, ROUNDS, ROUND_S = 200, 500, 32, 7, 1.5
# A gateway that keeps no document for the next reader, so that each read is one of Redis.
KEEPING_NOTHING = """
from services.gateway import price_reader
from services.gateway.app import SERVICE, build
from services.runtime.service import run_service

price_reader.HELD_S = -1.0
run_service(SERVICE, build)
"""


async def figures() -> list[Figure]:
    """The ratio, as it is and with Redis asked each time, and that of processor time, which the load cannot disturb."""
    port, keeping_nothing = free_port(), free_port()
    with TemporaryDirectory() as name:
        environment = {"QUOTEBUS_LOG__LEVEL": "warning", "QUOTEBUS_GATEWAY__PORT": str(port)}
        async with deployed(Path(name), ("gateway",), environment) as deployment:
            second = await _start_keeping_nothing(deployment, Path(name), keeping_nothing)
            bodies = await _keep_documents(deployment)
            ours = [(port, psutil.Process(deployment.services["gateway"].pid)), (keeping_nothing, psutil.Process(second.pid))]
            async with _bare(bodies[0]) as bare_server:
                rounds = [[await _round(*server) for server in (bare_server, *ours)] for _ in range(ROUNDS)]
    bare_rate, rate, rate_of_second = (median(each[n][0] for each in rounds) for n in range(3))
    ratio, cost, uncached = (
        median(ratios)
        for ratios in (
            [ours[0] / bare[0] for bare, ours, _ in rounds],
            [bare[1] / ours[1] for bare, ours, _ in rounds],
            [second[0] / bare[0] for bare, _, second in rounds],
        )
    )
    note = f"{rate:,.0f}/s of {bare_rate:,.0f}/s; {len(bodies[0]):,} bytes, {SYMBOLS} symbols, {READERS} readers"
    return [
        Figure("GET /prices/{symbol} from cache / bare handler, requests/s", ratio, 0.6, note),
        Figure("likewise, by processor time of a request", cost, None),
        Figure("likewise, requests/s with Redis asked each time", uncached, None, f"{rate_of_second:,.0f}/s"),
    ]


async def _start_keeping_nothing(deployment: Deployment, folder: Path, port: int) -> ServiceProcess:
    environment = deployment.environment | {"QUOTEBUS_GATEWAY__PORT": str(port)}
    service = ServiceProcess("second", (sys.executable, "-c", KEEPING_NOTHING), folder / "second.log", environment)
    deployment.services["second"] = service
    await service.start()
    return service


async def _keep_documents(deployment: Deployment) -> list[bytes]:
    assert deployment.redis is not None
    settings, now, bodies = RedisSettings(), datetime.now(UTC), []
    async with Redis.from_url(deployment.redis.url) as redis:
        for number in range(SYMBOLS):
            document = BarsDocument(
                symbol=f"S{number:03d}", provider="tiingo", currency="USD", timeframe="1d", basis="raw", feed="eod", real=1,
                columns=_columns(now), as_of=as_of_text(now),
            )  # fmt: skip
            bodies.append(encode_document(document, compress=False))
            await redis.set(bars_key(settings, document.symbol, "1d"), bodies[-1])
    return bodies


def _columns(now: datetime) -> dict[str, list[Any]]:
    prices = [100.25 + n / 100 for n in range(BARS)]
    at = [now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=BARS - n) for n in range(BARS)]
    values = {column.name: [None] * BARS if column.optional else prices for column in BAR_COLUMNS}
    return {"at": at, **values, "final": [True] * BARS}


async def _round(port: int, process: psutil.Process) -> tuple[float, float]:
    """Requests a second, and the server's processor seconds for each."""
    done = [0] * READERS
    before, began = _cpu_s(process), time.perf_counter()
    await asyncio.gather(*(_read(port, number, done, began + ROUND_S) for number in range(READERS)))
    took = time.perf_counter() - began
    return sum(done) / took, (_cpu_s(process) - before) / sum(done)


async def _read(port: int, number: int, done: list[int], until: float) -> None:
    """One reader with one connection; it reads no more of an answer than it must, to leave the processor to the servers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    while time.perf_counter() < until:
        symbol = (number + READERS * done[number]) % SYMBOLS
        writer.write(b"GET /prices/S%03d?timeframe=1d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % symbol)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        done[number] += 1
    writer.close()
    await writer.wait_closed()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@asynccontextmanager
async def _bare(body: bytes) -> AsyncIterator[tuple[int, psutil.Process]]:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_serve_bare, args=(body, theirs), daemon=True)
    child.start()
    try:
        port = await asyncio.to_thread(ours.recv)
        assert child.pid is not None
        yield port, psutil.Process(child.pid)
    finally:
        child.kill()
        await asyncio.to_thread(child.join)


def _serve_bare(body: bytes, told: Connection) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.add_routes([web.get("/prices/{symbol}", answer)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        told.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    _run(serve())


def _run(coroutine: object) -> None:
    """On the same loop as our services."""
    try:
        import uvloop  # noqa: PLC0415

        uvloop.run(coroutine)
    except ImportError:
        asyncio.run(coroutine)  # type: ignore[arg-type]
