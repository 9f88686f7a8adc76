"""Universes on a real PostgreSQL, and what becomes of a request for one that cannot be read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunPlanned
from services.cacher.migrate import migrate
from services.fetcher.planning.universe import Universe, UniverseRefusedError, UniverseUnavailableError
from services.runtime.bus import Bus, connect
from services.runtime.settings import NatsSettings, PostgresSettings, ProviderSettings, Secret, UniverseSettings
from tests.connected.deployment import deployed, until
from tests.connected.fetcher.fetcher_harness import fetching, settings_for, stored

TABLES = """
INSERT INTO holdings (symbol, quantity) VALUES ('HELD', 3), ('SOLD', 0), ('BOTH', 1);
INSERT INTO tickers (symbol, is_active, priority)
VALUES ('SECOND', true, 2), ('FIRST', true, 1), ('OFF', false, 0), ('both', true, 0);
INSERT INTO watchlist (symbol, priority) VALUES ('LATER', 5), ('SOONER', 1);
"""


@pytest.fixture
async def database(postgres_url: str) -> str:
    await migrate(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(TABLES)
        for name, days in (("RECENT", 29), ("OLD", 31)):
            at = datetime.now(UTC) - timedelta(days=days)
            await connection.execute("INSERT INTO transactions VALUES ($1, $1, 1, 10, $2)", name, at)
    finally:
        await connection.close()
    return postgres_url


async def test_active_is_held_then_traded_lately_then_given_then_listed_each_once(database: str) -> None:
    given = UniverseSettings(pre_populate=["Z", "A"])
    universe = Universe(database, {"active": given})
    wanted = RefreshRequest(universe="active")
    assert await universe.symbols(wanted) == ["BOTH", "HELD", "RECENT", "Z", "A", "FIRST", "SECOND"]
    longer = Universe(database, {"active": UniverseSettings(active_days=40)})
    assert "OLD" in await longer.symbols(wanted)


async def test_symbols_that_are_named_come_first_and_no_more_are_meant_than_wanted(database: str) -> None:
    request = RefreshRequest(symbols=["later", "X"], universe="watchlist", max_symbols=3)
    assert await Universe(database, {}).symbols(request) == ["LATER", "X", "SOONER"]


async def test_a_query_of_ones_own_on_ones_own_database_takes_the_parameters_it_has_use_for(database: str, nats_url: str) -> None:
    own = UniverseSettings(
        sql="SELECT upper(symbol) FROM tickers WHERE priority <= $2 AND symbol <> ALL ($1) ORDER BY 1",
        active_days=1,
        dsn=Secret(database),
    )
    universe = Universe("postgresql://nobody@127.0.0.1:1/nothing", {"mine": own})
    assert await universe.named("mine") == ["BOTH", "FIRST", "OFF"]
    with pytest.raises(UniverseUnavailableError, match="universe watchlist cannot be read"):
        await universe.named("watchlist")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT symbol FROM nowhere", "does not exist; run `quotebus migrate` for tables of ours, or set universes.x.sql"),
        ("SELEC 1", "correct universes.x.sql"),
        ("DELETE FROM tickers RETURNING symbol", "read-only transaction; correct universes.x.sql"),
        ("SELECT pg_sleep(5)::text", "raise universes.x.timeout_s"),
        ("SELECT symbol FROM tickers WHERE priority = $3", "correct universes.x.sql"),
        ("SELECT symbol FROM tickers WHERE symbol = ANY ($1) AND priority IN ($2::int, $3::int)", "it takes 3 parameters"),
        ("SELECT (SELECT symbol FROM tickers)", "more than one row returned by a subquery used as an expression; correct"),
        ("SELECT FROM tickers", "it gives no column; correct universes.x.sql"),
        (";", "it gives no column; correct universes.x.sql"),
        ("SELECT nosuch()", "function nosuch() does not exist; correct universes.x.sql"),
        ("SELECT symbol, 'NaN'::numeric AS priority FROM tickers", "column priority holds what has no order; give numbers"),
        ("SELECT symbol, '20000-01-01'::date FROM tickers", "a value that cannot be read"),
        ("SELECT set_config('transaction_read_only', 'off', true)", "must be set before any query; correct universes.x.sql"),
    ],
)  # fmt: skip
async def test_a_query_that_cannot_work_says_what_to_do(database: str, sql: str, says: str) -> None:
    patience_s = 0.3 if "sleep" in sql else 30
    with pytest.raises(UniverseRefusedError) as refused:
        await Universe(database, {"x": UniverseSettings(sql=sql, timeout_s=patience_s)}).named("x")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_role_that_may_not_read_is_told_what_to_grant(database: str) -> None:
    name = urlsplit(database).path.strip("/")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(f"CREATE ROLE {name}_reader LOGIN PASSWORD 'p'")
        theirs = f"postgresql://{name}_reader:p@{urlsplit(database).netloc.rpartition('@')[2]}/{name}"
        own = UniverseSettings(sql="SELECT symbol FROM tickers", dsn=Secret(theirs))
        with pytest.raises(UniverseRefusedError, match=r"grant SELECT to the role of universes\.x\.dsn"):
            await Universe(database, {"x": own}).named("x")
    finally:
        await connection.execute(f"DROP ROLE {name}_reader")
        await connection.close()


@pytest.mark.parametrize("dsn", ["foo", "mysql://h/d", "postgresql://u:pa/ss@h/d", f"postgresql://{'h' * 70}.com/d"])
async def test_what_is_no_address_says_which_setting_and_nothing_of_its_text(database: str, dsn: str) -> None:
    own = UniverseSettings(sql="SELECT 'A'", dsn=Secret(dsn))
    with pytest.raises(
        UniverseRefusedError, match=r"universe x: universes\.x\.dsn is no address of a PostgreSQL; give post"
    ) as refused:
        await Universe(database, {"x": own}).named("x")
    assert "'pa'" not in str(refused.value)
    with pytest.raises(UniverseRefusedError, match=r"postgres\.dsn is no address"):
        await Universe(dsn, {}).named("watchlist")


async def test_the_column_symbol_is_meant_wherever_it_stands_and_a_priority_orders_it(database: str) -> None:
    sql = "SELECT * FROM (VALUES (NULL, 'LAST'), (2, 'B'), (1, ' a '), (1, NULL), (1, 'A2')) AS v (priority, symbol)"
    assert await Universe(database, {"x": UniverseSettings(sql=sql)}).named("x") == ["A", "A2", "B", "LAST"]
    assert await Universe(database, {"x": UniverseSettings(sql="SELECT 'B', 1 UNION ALL SELECT 'A', 2")}).named("x") == ["B", "A"]


async def test_a_connection_that_ends_in_the_middle_is_the_servers_trouble_and_not_the_querys(database: str) -> None:
    own = UniverseSettings(sql="SELECT pg_terminate_backend(pg_backend_pid())::text")
    with pytest.raises(UniverseUnavailableError, match="universe x cannot be read"):
        await Universe(database, {"x": own}).named("x")


async def test_a_query_that_gives_nothing_of_use_fails_its_request_and_the_planner_goes_on(database: str, nats_url: str) -> None:
    settings = settings_for(nats_url, synthetic=ProviderSettings(enabled=True))
    own = {
        "bare": UniverseSettings(sql="SELECT FROM tickers"),
        "far": UniverseSettings(sql="SELECT 1", dsn=Secret("postgresql://h:p/d")),
    }
    settings = msgspec.structs.replace(settings, postgres=PostgresSettings(dsn=Secret(database)), universes=own)
    async with connect(NatsSettings(url=nats_url), "test") as bus, fetching(bus, settings):
        for name in ("bare", "far", "watchlist"):
            await bus.publish(subjects.refresh_request("live"), RefreshRequest(universe=name, dataset="quote"))
        await until(lambda: _quotes(bus, 2))
        dead = [decode(body, DeadLetter) for body in await stored(bus, subjects.DEAD, "refresh.dead.bad_request")]
    assert [letter.message.partition("universe ")[2].partition(":")[0] for letter in dead] == ["bare", "far"]


async def test_a_request_for_an_unknown_universe_is_a_dead_letter_and_the_next_one_is_served(database: str, nats_url: str) -> None:
    settings = settings_for(nats_url, synthetic=ProviderSettings(enabled=True))
    settings = msgspec.structs.replace(settings, postgres=PostgresSettings(dsn=Secret(database)))
    async with connect(NatsSettings(url=nats_url), "test") as bus, fetching(bus, settings):
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(universe="activ"))
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(universe="watchlist", dataset="quote"))
        await until(lambda: _quotes(bus, 2))
        [dead] = [decode(body, DeadLetter) for body in await stored(bus, subjects.DEAD, "refresh.dead.bad_request")]
    assert dead.message.endswith(
        "universe activ is not defined; did you mean active? A further one is a table [universes.activ] with its sql"
    )


async def test_what_cannot_be_buried_now_is_buried_later_and_the_planner_goes_on(tmp_path: Path) -> None:
    async with deployed(tmp_path, ("fetcher",), {"QUOTEBUS_PROVIDERS__SYNTHETIC__ENABLED": "true"}, redis=False) as deployment:
        bus, fetcher = deployment.bus, deployment.services["fetcher"]
        graves = (await bus.js.stream_info(subjects.DEAD)).config
        await bus.js.delete_stream(subjects.DEAD)
        await bus.publish(subjects.refresh_request("live"), b"{")
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(universe="activ"))
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["AAPL"], dataset="quote"))
        await until(lambda: _quotes(bus, 1))
        await bus.js.add_stream(graves)

        async def all_buried() -> bool:
            return (await bus.js.stream_info(subjects.DEAD)).state.messages == 2

        await until(all_buried)
        assert fetcher.running
        [planned] = [decode(body, RunPlanned) for body in await stored(bus, subjects.RUNS, "run.planned") if b"activ" in body]
    assert (planned.planned, (planned.refused or "")[:34]) == (0, "universe activ is not defined; did")


async def test_a_request_whose_universe_cannot_be_read_outlives_killed_servers_and_fetchers(tmp_path: Path) -> None:
    async with deployed(tmp_path, ("fetcher",), {"QUOTEBUS_PROVIDERS__SYNTHETIC__ENABLED": "true"}, redis=False) as deployment:
        await deployment.rows("INSERT INTO holdings (symbol, quantity) VALUES ('HELD', 1)")
        await deployment.postgres.kill()
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(universe="active", dataset="quote"))

        async def waits() -> bool:
            return "universe active cannot be read" in deployment.log("fetcher")

        await until(waits)
        await deployment.services["fetcher"].kill()
        await deployment.start("fetcher")
        await deployment.postgres.start()
        await until(lambda: _quotes(deployment.bus, 1))
        assert (await deployment.bus.js.stream_info(subjects.DEAD)).state.messages == 0


async def _quotes(bus: Bus, count: int) -> bool:
    state = (await bus.js.stream_info(subjects.PRICES, subjects_filter="price.quote.>")).state
    return len(state.subjects or {}) == count
