"""The whole way, from a request on the bus to rows in Postgres: every process, fsync everywhere, a provider over HTTP."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import psutil

from bench.copy_limit import copy_limit
from bench.report import Figure
from bench.usual_job import usual_job
from bench.vendor import vendor
from contracts import subjects
from contracts.refresh_request import RefreshRequest
from services.runtime.jetstream.topology import CACHER_RUNS
from tests.connected.deployment import Deployment, deployed, until

SYMBOLS, BARS, USUAL_SYMBOLS = 2000, 500, 40
STORED = "SELECT count(*) AS n FROM observations"
WAL = "SELECT pg_current_wal_lsn() - '0/0' AS n"


@dataclass(frozen=True)
class Pipeline:
    """Bars a second by what was done; `wal`: bytes of write-ahead log per unchanged row, `wal_of_runs` with the history of runs."""

    fresh: float
    unchanged: float
    wal: float
    wal_of_runs: float
    copied: float
    usual: float
    grown_mib: float


async def pipeline(cachers: int) -> Pipeline:
    """Refresh everything twice, with so many cachers, and compare with what the machine can do at the same time."""
    names = [f"S{number:04d}" for number in range(SYMBOLS)]
    with vendor(BARS) as url, TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            "QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": url,
            "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0",
            "QUOTEBUS_LOG__LEVEL": "warning",
        }
        async with deployed(folder, ("fetcher", "cacher"), environment, fast=False) as deployment, _asking(deployment) as ask:
            for number in range(2, cachers + 1):
                await deployment.start(f"cacher{number}", "cacher")
            fresh = await _refresh(deployment, ask, names, 1)
            before, heap = await _number(ask, WAL), _heap(deployment)
            unchanged = await _refresh(deployment, ask, names, 2)
            await until(lambda: _runs_are_over(ask, 2), timeout_s=60)
            wal_of_runs = await _number(ask, WAL) - before
            grown = _heap(deployment) - heap
            later = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
            await deployment.bus.js.pause_consumer(subjects.RUNS, CACHER_RUNS, later)
            before = await _number(ask, WAL)
            await _refresh(deployment, ask, names, 3)
            wal = await _number(ask, WAL) - before
            await deployment.bus.js.resume_consumer(subjects.RUNS, CACHER_RUNS)
            copied = await copy_limit(deployment.postgres.url, folder)
            usual_s = usual_job(url, deployment.postgres.url, names[:USUAL_SYMBOLS])
    rows = SYMBOLS * BARS
    return Pipeline(
        fresh=rows / fresh,
        unchanged=rows / unchanged,
        wal=wal / rows,
        wal_of_runs=wal_of_runs / rows,
        copied=copied,
        usual=USUAL_SYMBOLS * BARS / usual_s,
        grown_mib=grown / 2**20,
    )


async def figures() -> list[Figure]:
    """One cacher and two."""
    one, two = await pipeline(1), await pipeline(2)
    return list(_figures(one, two))


def _figures(one: Pipeline, two: Pipeline) -> Iterator[Figure]:
    def bars(value: float) -> str:
        return f"{value:,.0f} bars/s"

    yield Figure("fresh bars, 1 cacher, over COPY", one.fresh / one.copied, 0.40, f"{bars(one.fresh)} of {bars(one.copied)}")
    yield Figure("fresh bars, 2 cachers, over COPY", two.fresh / two.copied, 0.60, f"{bars(two.fresh)} of {bars(two.copied)}")
    yield Figure("unchanged bars, 1 cacher, over COPY", one.unchanged / one.copied, 0.70, bars(one.unchanged))
    yield Figure("unchanged bars, 2 cachers, over COPY", two.unchanged / two.copied, None, bars(two.unchanged))
    yield Figure("WAL of an unchanged row, bytes", one.wal, 1.0, "tables of prices", at_most=True)
    yield Figure("likewise with the run's result for each symbol", one.wal_of_runs, None, "all tables")
    yield Figure("memory of services after an unchanged refresh, MiB more", one.grown_mib, None, "resident")
    yield Figure("fresh bars, 1 cacher, over the usual job", one.fresh / one.usual, 60, bars(one.usual))


@asynccontextmanager
async def _asking(deployment: Deployment) -> AsyncIterator[asyncpg.Connection]:
    """One connection to look with: to open one each time would cost Postgres more than the rows that are looked for."""
    connection = await asyncpg.connect(deployment.postgres.url)
    try:
        yield connection
    finally:
        await connection.close()


async def _refresh(deployment: Deployment, ask: asyncpg.Connection, symbols: list[str], round_number: int) -> float:
    began = time.perf_counter()
    await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=symbols, dataset="bars", timeframe="1d"))

    async def stored() -> bool:
        return await _number(ask, STORED) >= round_number * len(symbols)

    await until(stored, timeout_s=600)
    return time.perf_counter() - began


async def _runs_are_over(ask: asyncpg.Connection, count: int) -> bool:
    return await _number(ask, "SELECT count(*) AS n FROM runs WHERE finished_at IS NOT NULL") >= count


async def _number(ask: asyncpg.Connection, query: str) -> float:
    return float(await ask.fetchval(query))


def _heap(deployment: Deployment) -> int:
    return sum(psutil.Process(service.pid).memory_info().rss for service in deployment.services.values())
