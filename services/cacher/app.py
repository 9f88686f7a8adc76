"""The cacher's application: price events, run events and symbol health, each from its own durable, into Postgres and Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import structlog
from faststream import FastStream

from contracts import subjects
from services.cacher import on_price_events, on_run_events, on_symbol_health
from services.cacher.corrections import sweep_corrections
from services.cacher.migrate import MigrationError, pending
from services.cacher.on_price_events import PriceEvents
from services.cacher.on_run_events import RunEvents
from services.cacher.on_symbol_health import SymbolEvents
from services.cacher.store_postgres.prices import SERVER_SETTINGS, PostgresStore
from services.cacher.store_postgres.runs import HistoryStore, RunStore, sweep_history
from services.cacher.store_postgres.symbol_health import SymbolStore
from services.cacher.store_redis import RedisStore
from services.cacher.write_batch import FAULTY_DATA, BatchWriter
from services.runtime.bus import Bus, connect
from services.runtime.consumer import Consumer, ConsumerOptions, FailurePolicy
from services.runtime.dead_letters import DeadLetters
from services.runtime.health import Health
from services.runtime.jetstream.provision import wait_until_provisioned
from services.runtime.jetstream.topology import CACHER, CACHER_RUNS, CACHER_SYMBOLS
from services.runtime.postgres import POSTGRES_UNAVAILABLE, open_pool
from services.runtime.prices.read_redis import open_redis
from services.runtime.puller import Puller
from services.runtime.service import ServiceApp, request_reply_broker, supervise, until_stopped
from services.runtime.settings import CacherSettings, Settings

SERVICE = "cacher"
RETRY_S = 1.0

log = structlog.get_logger()


def build(settings: Settings) -> FastStream:
    """The cacher's application."""
    health = Health(SERVICE)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with (
            health.serve(settings.health),
            connect(settings.nats, SERVICE) as bus,
            open_pool(settings.postgres, SERVER_SETTINGS) as pool,
            open_redis(settings.redis) as client,
        ):
            redis = RedisStore(client, pool, settings.redis) if client else None
            async with run_consumers(settings, bus, pool, redis, health):
                yield

    return ServiceApp(request_reply_broker(settings, health), lifespan=lifespan, logger=None)


@asynccontextmanager
async def run_consumers(
    settings: Settings, bus: Bus, pool: asyncpg.Pool, redis: RedisStore | None, health: Health
) -> AsyncIterator[None]:
    """Store what comes while the block runs; afterwards finish or give back what is in hand."""
    stop = asyncio.Event()
    writer = BatchWriter(health, stop)
    store, history = PostgresStore(pool), HistoryStore(pool)
    prices = PriceEvents(bus, store, redis, writer)
    runs = RunEvents(bus, RunStore(pool), history, writer)
    symbols = SymbolEvents(SymbolStore(pool), writer)
    failures = FailurePolicy(DeadLetters(bus, SERVICE), settings.nats.max_deliveries, POSTGRES_UNAVAILABLE, FAULTY_DATA)
    of_prices, of_runs, of_symbols = _options(settings.cacher)

    async def work() -> None:
        """Begin when there is something to pull from and somewhere to put it; end when told to."""
        await until_stopped(stop, _wait_ready(settings, bus, health))
        if stop.is_set():
            return
        log.info("cacher_ready", redis=redis is not None)
        async with asyncio.TaskGroup() as group:
            group.create_task(Consumer(Puller(bus, subjects.PRICES, CACHER), prices, failures, of_prices).run(stop))
            group.create_task(Consumer(Puller(bus, subjects.RUNS, CACHER_RUNS), runs, failures, of_runs).run(stop))
            group.create_task(Consumer(Puller(bus, subjects.SYMBOLS, CACHER_SYMBOLS), symbols, failures, of_symbols).run(stop))
            forgetting = sweep_history(history, settings.cacher.keep_runs_days)
            sweeps = [group.create_task(sweep) for sweep in (sweep_corrections(bus, store), runs.sweep(), forgetting)]
            await stop.wait()
            for sweep in sweeps:
                sweep.cancel()

    async with supervise(health, {"cacher": work()}, stop):
        yield


def _options(settings: CacherSettings) -> tuple[ConsumerOptions, ConsumerOptions, ConsumerOptions]:
    """Consumer options of prices, runs and symbol health."""
    options = partial(ConsumerOptions, settings.ack_wait_s)
    return (
        options(settings.batch_events, on_price_events.BATCHES_AT_ONCE, on_price_events.BATCH_WAIT),
        options(on_run_events.BATCH_EVENTS, wait=on_run_events.BATCH_WAIT),
        options(on_symbol_health.BATCH_EVENTS),
    )


async def _wait_ready(settings: Settings, bus: Bus, health: Health) -> None:
    health.ready("streams", False, "waiting for the streams: run `quotebus migrate`")
    await wait_until_provisioned(bus.js, [subjects.PRICES, subjects.RUNS, subjects.SYMBOLS, subjects.DEAD])
    health.ready("streams", True)
    await _migrated(settings, health)


async def _migrated(settings: Settings, health: Health) -> None:
    """Return when Postgres has the schema this cacher was written for."""
    said = ""
    while True:
        try:
            missing = await pending(settings.postgres.dsn.get_secret_value())
            trouble = f"not migrated ({', '.join(missing)}): run `quotebus migrate`" if missing else ""
        except (*POSTGRES_UNAVAILABLE, MigrationError) as error:
            trouble = str(error) or type(error).__name__
        health.ready("postgres", not trouble, trouble)
        if not trouble:
            return
        if trouble != said:
            log.warning("waiting_for_postgres", error=trouble)
            said = trouble
        await asyncio.sleep(RETRY_S)
