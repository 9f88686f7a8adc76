"""The cacher on real servers: what comes on the bus is stored, whatever breaks on the way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import pytest
from nats.aio.msg import Msg

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.message import Message, decode, encode
from contracts.price_events import PriceCorrected
from contracts.run_events import RunFinished
from quotebus.embedded import NatsServer, PostgresServer
from services.cacher.app import run_consumers
from services.cacher.migrate import migrate
from services.cacher.store_postgres.prices import SERVER_SETTINGS, PostgresStore
from services.cacher.store_redis import RedisStore
from services.runtime.bus import MESSAGE_ID, Bus, connect
from services.runtime.health import Health
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import CACHER, CACHER_RUNS, topology
from services.runtime.postgres import open_pool
from services.runtime.prices.read_redis import open_redis
from services.runtime.settings import CacherSettings, NatsSettings, PostgresSettings, RedisSettings, Secret, Settings
from tests.cacher.events import bars, chain, quote, read, subject, volatility
from tests.connected.cacher.run_events import planned, result


class World:
    """A bus and a database for a test, on which cachers run."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.bus = bus
        self.settings = settings

    @asynccontextmanager
    async def cacher(self) -> AsyncIterator[Health]:
        """A cacher at work."""
        health = Health("cacher")
        async with (
            connect(self.settings.nats, "cacher") as bus,
            open_pool(self.settings.postgres, SERVER_SETTINGS) as pool,
            open_redis(self.settings.redis) as client,
        ):
            redis = RedisStore(client, pool, self.settings.redis) if client else None
            async with run_consumers(self.settings, bus, pool, redis, health):
                yield health

    async def publish(self, *events: Message) -> None:
        await asyncio.gather(*(self.bus.publish(subject(event), event) for event in events))

    async def query(self, statement: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.settings.postgres.dsn.get_secret_value())
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    async def symbols(self) -> list[str]:
        return [row["symbol"] for row in await self.query("SELECT DISTINCT symbol FROM price_bars ORDER BY symbol")]

    async def all_acknowledged(self, stream: str = subjects.PRICES, durable: str = CACHER) -> bool:
        info = await self.bus.js.consumer_info(stream, durable)
        return info.num_pending == 0 and info.num_ack_pending == 0

    async def settle(self) -> None:
        await until(self.all_acknowledged)

    async def last(self, stream: str, pattern: str) -> list[Msg]:
        """Every message of a stream that matches."""
        counts = (await self.bus.js.stream_info(stream, subjects_filter=pattern)).state.subjects or {}
        subscription = await self.bus.js.subscribe(pattern, stream=stream, ordered_consumer=True)
        try:
            return [await subscription.next_msg(timeout=20) for _ in range(sum(counts.values()))]
        finally:
            await subscription.unsubscribe()

    async def dead(self) -> list[DeadLetter]:
        return [decode(msg.data, DeadLetter) for msg in await self.last(subjects.DEAD, "refresh.dead.*")]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def world_on(nats_url: str, postgres_url: str, redis_url: str | None = None) -> AsyncIterator[World]:
    settings = Settings(
        nats=NatsSettings(url=nats_url),
        postgres=PostgresSettings(dsn=Secret(postgres_url)),
        redis=RedisSettings(url=Secret(redis_url) if redis_url else None),
        cacher=CacherSettings(batch_events=16),
    )
    async with connect(settings.nats, "test") as bus:
        await provision(bus.js, topology(settings, {}))
        yield World(bus, settings)


@pytest.fixture
async def world(nats_server: NatsServer, postgres_url: str, redis_url: str) -> AsyncIterator[World]:
    await migrate(postgres_url)
    async with world_on(nats_server.url, postgres_url, redis_url) as made:
        yield made


async def test_what_comes_is_in_postgres_and_redis_and_acknowledged(world: World) -> None:
    symbols = [f"S{n:03}" for n in range(100)]
    async with world.cacher(), open_redis(world.settings.redis) as client:
        await world.publish(*(bars(symbol) for symbol in symbols), quote())
        await world.settle()
        assert await world.symbols() == symbols
        assert client is not None
        assert await client.exists(*(f"quotebus:price:{symbol}:1d:500" for symbol in symbols)) == 100
        assert await client.ttl("quotebus:quote:AAPL") > 0
    assert await world.dead() == []


def malformed() -> list[tuple[str, bytes, str]]:
    good = bars()
    raw = msgspec.json.decode(encode(good))

    def body(**other: object) -> bytes:
        return msgspec.json.encode(raw | other)

    daily = subjects.price("bars", "1d", "AAPL")
    return [
        (daily, b"", "Input data was truncated"),
        (daily, b"\xff\xfe", "malformed"),
        (daily, b"[]", "Expected `object`"),
        (daily, body(type="price_bars.v9"), "$.type"),
        (daily, body(close=["x", 1, 2]), "$.close"),
        (daily, body(close=[1.0]), "close: 1 values for 3 rows"),
        (daily, body(at=raw["at"][::-1]), "at: instants must rise"),
        (daily, body(at=["2024-01-02T00:00:00", *raw["at"][1:]]), "$.at"),
        (daily, body(high=[1.0, 1.0, 1.0]), "high"),
        (daily, body(volume=[-1.0, 1.0, 1.0]), "volume"),
        (daily, body(symbol="MSFT"), "symbol"),
        (daily, body(timeframe="1h"), "timeframe"),
        (daily, body(feed="a\0b"), "feed"),
        (daily, body(provider=""), "provider"),
        (daily, body(observed_at="2999-01-01T00:00:00Z"), "observed_at"),
        (daily, b'{"type":"price_bars.v1","close":1e999}', "out of range"),
        (subjects.price("iv", None, "AAPL"), encode(volatility(iv_30d=-1.0)), "iv_30d: -1.0 is negative"),
        (subjects.price("iv", None, "AAPL"), encode(volatility(iv_30d=0.0)), "iv_30d"),
        (subjects.price("iv", None, "AAPL"), encode(volatility(iv_rank=42.0)), "iv_rank: 42.0 is more than 1"),
        (subjects.price("iv", None, "AAPL"), encode(volatility(contracts=[2**40])), "contracts"),
        (subjects.price("iv", None, "AAPL"), encode(volatility(chain_provider="")), "chain_provider"),
        (
            subjects.price("iv", None, "AAPL"),
            encode(volatility()).replace(b'"forward":[100.0]', b'"forward":[]'),
            "forward: 0 values",
        ),
        (subjects.price("quote", None, "AAPL"), b'{"type":"price_quote.v1"}', "symbol"),
        (subjects.price("bars", "4h", "AAPL"), body(timeframe="4h"), "timeframe: this version knows no '4h'"),
        (subjects.price("chain", None, "AAPL"), encode(chain(strikes=(-1.0,))), "strike"),
    ]


async def test_a_malformed_event_becomes_a_dead_letter_that_names_the_field_and_stops_nobody(world: World) -> None:
    bad = malformed()
    async with world.cacher():
        for at, body, _ in bad:
            await world.bus.publish(at, body)
        await world.publish(bars("GOOD"))
        await world.settle()
    letters = {letter.sequence: letter for letter in await world.dead()}
    assert len(letters) == len(bad)
    for (at, _, field), (_, letter) in zip(bad, sorted(letters.items()), strict=True):
        assert field in letter.message
        assert (letter.subject, letter.service, letter.reason, letter.stream) == (at, "cacher", "malformed", subjects.PRICES)
    assert await world.symbols() == ["GOOD"]
    assert (await world.bus.js.consumer_info(subjects.PRICES, CACHER)).num_redelivered == 0


async def test_one_event_that_postgres_refuses_does_not_take_its_batch_along(world: World) -> None:
    await world.publish(bars("ONE"), chain("BAD", strikes=(-1.0,)), bars("TWO"), quote("THREE"))
    async with world.cacher():
        await world.settle()
    [letter] = await world.dead()
    assert "chain_contracts" in letter.message
    assert letter.subject == subjects.price("chain", None, "BAD")
    assert await world.symbols() == ["ONE", "TWO"]


async def test_while_postgres_is_down_nothing_is_acknowledged_and_afterwards_all_is_stored(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with PostgresServer(tmp_path / "pg", fast=True) as postgres, world_on(nats_server.url, postgres.url) as world:
        await migrate(postgres.url)
        async with world.cacher() as health:
            await world.publish(bars("BEFORE"))
            await world.settle()
            await postgres.kill()
            await world.publish(*(bars(f"S{n}") for n in range(50)))

            async def noticed() -> bool:
                return not health.parts["postgres"][0]

            await until(noticed)
            info = await world.bus.js.consumer_info(subjects.PRICES, CACHER)
            assert info.ack_floor is not None
            assert info.ack_floor.stream_seq == 1
            await postgres.start()
            await world.settle()
            assert health.parts["postgres"] == (True, "")
            assert len(await world.symbols()) == 51


async def test_a_cacher_starts_before_its_database_and_waits_for_it(nats_server: NatsServer, tmp_path: Path) -> None:
    async with PostgresServer(tmp_path / "pg", fast=True) as postgres, world_on(nats_server.url, postgres.url) as world:
        async with world.cacher() as health:
            await world.publish(bars())

            async def asked_for() -> bool:
                return "quotebus migrate" in health.parts.get("postgres", (True, ""))[1]

            await until(asked_for)
            await migrate(postgres.url)
            await world.settle()
        assert await world.symbols() == ["AAPL"]


async def test_told_to_stop_while_postgres_is_down_it_gives_back_at_once(nats_server: NatsServer, tmp_path: Path) -> None:
    async with PostgresServer(tmp_path / "pg", fast=True) as postgres, world_on(nats_server.url, postgres.url) as world:
        await migrate(postgres.url)
        async with world.cacher() as health:
            await until(lambda: _is_ready(health))
            await postgres.kill()
            await world.publish(*(bars(f"S{n}") for n in range(20)))

            async def taken() -> bool:
                return bool((await world.bus.js.consumer_info(subjects.PRICES, CACHER)).num_ack_pending)

            await until(taken)
        await postgres.start()
        # The next one has them without waiting for the 30 s of ack_wait, for which `settle` would not wait either.
        async with world.cacher():
            await world.settle()
        assert len(await world.symbols()) == 20


async def test_stopped_in_the_middle_every_event_is_stored_by_the_next_one(world: World) -> None:
    symbols = [f"S{n:03}" for n in range(300)]
    closes = tuple(float(n) for n in range(1, 200))
    await world.publish(*(bars(symbol, closes) for symbol in symbols))
    for _ in range(3):
        async with world.cacher() as health:
            await until(lambda: _is_ready(health))
            await asyncio.sleep(0.05)
    async with world.cacher():
        await world.settle()
    assert await world.symbols() == symbols
    [row] = await world.query("SELECT count(*) AS bars, (SELECT count(*) FROM observations) AS observations FROM bars")
    assert (row["bars"], row["observations"]) == (300 * 199, 300)


async def test_two_cachers_share_the_work_and_store_everything_once(world: World) -> None:
    events = [bars(f"S{n % 25}", (10.0 + n // 25, 20.0), minute=n // 25) for n in range(200)]
    async with world.cacher(), world.cacher():
        await world.publish(*events)
        await world.settle()
    rows = await world.query("SELECT symbol, array_agg(close ORDER BY at) AS closes FROM price_bars GROUP BY symbol")
    assert len(rows) == 25
    assert {tuple(row["closes"]) for row in rows} == {(17.0, 20.0)}
    assert await world.dead() == []


async def test_a_corrected_bar_is_published_once_with_its_own_id(world: World) -> None:
    async with world.cacher():
        await world.publish(bars())
        await world.settle()
        changed = bars(closes=(10.0, 11.5, 12.0), minute=1)
        await world.publish(changed, changed)
        await world.settle()
    [msg] = await world.last(subjects.PRICES, "price.corrected.>")
    correction = decode(msg.data, PriceCorrected)
    assert msg.subject == "price.corrected.1d.AAPL"
    assert (msg.headers or {})[MESSAGE_ID] == f"correction-{correction.correction_id}"
    assert (correction.before[3], correction.after[3]) == (11.0, 11.5)
    assert await world.query("SELECT 1 FROM corrections WHERE published_at IS NULL") == []


async def test_a_correction_that_was_stored_and_never_told_is_told_at_the_start(world: World) -> None:
    async with open_pool(world.settings.postgres, SERVER_SETTINGS) as pool:
        store = PostgresStore(pool)
        await store.write(read(bars()))
        await store.write(read(bars(closes=(10.0, 11.5, 12.0), minute=1)))
    async with world.cacher():

        async def told() -> bool:
            return await world.query("SELECT 1 FROM corrections WHERE published_at IS NULL") == []

        await until(told)
    assert len(await world.last(subjects.PRICES, "price.corrected.>")) == 1


async def test_a_run_is_declared_over_once(world: World) -> None:
    async with world.cacher(), world.cacher():
        await world.bus.publish("run.planned.nightly", planned("AAPL", "MSFT", job="nightly"))
        await world.bus.publish("run.result.nightly", b'{"type":"run_result.v1","run_id":7}')
        await world.bus.publish("run.result.nightly", result())
        await world.bus.publish("run.result.nightly", result("MSFT", "empty"))

        async def told() -> bool:
            return await world.query("SELECT 1 FROM runs WHERE published_at IS NOT NULL") != []

        await until(told)
        await until(lambda: world.all_acknowledged(subjects.RUNS, CACHER_RUNS))
    [msg] = await world.last(subjects.RUNS, "run.finished.*")
    finished = decode(msg.data, RunFinished)
    assert msg.subject == "run.finished.nightly"
    assert finished.counts == {"refreshed": 1, "empty": 1}
    [letter] = await world.dead()
    assert "$.run_id" in letter.message


async def _is_ready(health: Health) -> bool:
    return health.parts.get("postgres", (False, ""))[0]
