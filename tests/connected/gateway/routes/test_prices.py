"""Prices, history, coverage and runs over HTTP; with Redis down, and with PostgreSQL down."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from contracts import subjects
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunPlanned, RunResult
from services.runtime.prices.document import QuoteDocument, as_of_text, dataset_key, document_json, encode_document
from services.runtime.settings import RedisSettings
from tests.cacher.events import DAY, FIRST, bars, chain, quote, subject, volatility
from tests.connected.deployment import Deployment, until
from tests.connected.gateway.gateway_harness import Http, with_gateways

NOW = datetime.now(UTC)
QUOTE_KEY = "quotebus:quote:{}"


def quote_document(symbol: str, age: timedelta, price: float = 101.5) -> QuoteDocument:
    return QuoteDocument(
        symbol=symbol, provider="yahoo", currency="USD", at=NOW, price=price, bid=None, ask=None, previous_close=None, volume=None,
        feed="delayed", real=1, as_of=as_of_text(datetime.now(UTC) - age),
    )  # fmt: skip


async def publish(deployment: Deployment, *events: Any) -> None:
    for event in events:
        await deployment.bus.publish(subject(event), event)


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Http]]:
    """A gateway beside a cacher that has stored what these tests read."""
    async with with_gateways(tmp_path_factory.mktemp("prices"), ("cacher",)) as (deployment, [http]):
        long = tuple(100.0 + n for n in range(40))
        await publish(
            deployment,
            bars("BRK.B", long), bars("BRK.B", (1.0, 2.0), feed="synthetic", provider="synthetic", basis="raw"),
            bars("DAILY"), quote("QUOTED", 12.5), chain("AAPL"), bars("^GSPC", (5000.0,)),
            volatility("AAPL"),
        )  # fmt: skip

        async def stored() -> bool:
            rows = await deployment.rows("SELECT count(*) AS n FROM price_observations")
            return bool(rows[0]["n"] == 7)

        await until(stored)
        yield deployment, http


@pytest.fixture
async def redis(running: tuple[Deployment, Http]) -> AsyncIterator[Redis]:
    """The deployment's, empty."""
    server = running[0].redis
    assert server is not None
    async with Redis.from_url(server.url) as redis:
        await redis.flushall()
        # A gateway gives what it has just read once more.
        await asyncio.sleep(0.3)
        yield redis


@pytest.fixture
def http(running: tuple[Deployment, Http]) -> Http:
    return running[1]


async def test_a_price_comes_as_it_lies_in_redis(http: Http, redis: Redis) -> None:
    value = encode_document(quote_document("X", timedelta(seconds=5)), compress=False)
    await redis.set(QUOTE_KEY.format("X"), value)
    answer = await http.get("/prices/x")
    assert (answer.status, answer.body) == (200, value)
    assert (answer.headers["Quotebus-Source"], answer.headers["Quotebus-Stale"]) == ("redis", "false")
    assert int(answer.headers["Age"]) >= 5
    assert "Quotebus-Refresh" not in answer.headers
    same = await http.get("/prices/X", If_None_Match=answer.headers["ETag"])
    assert (same.status, same.body, same.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    newer = encode_document(quote_document("X", timedelta(seconds=1), 102.0), compress=True)
    await redis.set(QUOTE_KEY.format("X"), newer)

    async def changed() -> bool:
        answer_now = await http.get("/prices/X", If_None_Match=answer.headers["ETag"])
        return answer_now.status == 200 and answer_now.body == document_json(newer)

    await until(changed)


async def test_what_redis_has_not_comes_from_postgres_and_is_put_into_redis(http: Http, redis: Redis) -> None:
    answer = await http.get("/prices/QUOTED")
    assert (answer.headers["Quotebus-Source"], answer.json["price"]) == ("postgres", 12.5)
    assert await redis.get(QUOTE_KEY.format("QUOTED")) == answer.body
    for path in ("/prices/DAILY", "/prices/DAILY?timeframe=1d"):
        assert (await http.get(path)).json["close"] == [10.0, 11.0, 12.0], "never quoted: its daily bars"
    assert (await http.get("/prices/%5EGSPC?timeframe=1d")).json["close"] == [5000.0]
    assert (await http.get("/chains/AAPL")).json["strike"] == [100.0, 110.0]
    answer = await http.get("/iv/AAPL")
    assert (answer.json["iv_30d"], answer.json["feed"], answer.headers["Quotebus-Source"]) == (0.25, "delayed", "postgres")
    assert answer.headers["Quotebus-Stale"] == "true", "its chain is of long ago"
    assert await redis.get("quotebus:iv:AAPL") == answer.body


async def test_something_foreign_under_the_key_is_passed_over(http: Http, redis: Redis) -> None:
    await redis.set(QUOTE_KEY.format("QUOTED"), b"nonsense")
    answer = await http.get("/prices/QUOTED")
    assert (answer.status, answer.headers["Quotebus-Source"]) == (200, "postgres")


async def test_a_stale_price_is_given_and_asked_for_once(running: tuple[Deployment, Http], redis: Redis) -> None:
    deployment, http = running
    await redis.set(QUOTE_KEY.format("OLD"), encode_document(quote_document("OLD", timedelta(hours=1)), compress=False))
    answers = await asyncio.gather(*(http.get("/prices/OLD") for _ in range(5)))
    assert {(each.headers["Quotebus-Stale"], each.headers["Quotebus-Refresh"]) for each in answers} == {("true", "under-way")}
    listed = (await http.get("/prices?symbols=OLD")).json["prices"]
    assert [(each["symbol"], each["stale"], each["refresh"]) for each in listed] == [("OLD", True, True)]

    async def wishes() -> list[RefreshRequest]:
        state = (await deployment.bus.js.stream_info(subjects.REFRESH)).state
        there = range(max(1, state.first_seq), state.last_seq + 1)
        messages = [await deployment.bus.js.get_msg(subjects.REFRESH, sequence) for sequence in there]
        return [decode(each.data or b"", RefreshRequest) for each in messages if each.subject == "refresh.request.live"]

    async def asked() -> bool:
        return any("OLD" in wish.symbols for wish in await wishes())

    await until(asked)
    await http.get("/prices/OLD")
    [wish] = [wish for wish in await wishes() if "OLD" in wish.symbols]
    assert (wish.dataset, wish.max_age_s) == ("quote", 60)


async def test_several_prices_come_at_once_and_missing_ones_are_named(http: Http, redis: Redis) -> None:
    answer = await http.get("/prices?symbols=quoted,DAILY,NOPE,QUOTED")
    assert [(each["symbol"], each["source"], each["document"]["symbol"]) for each in answer.json["prices"]] == [
        ("QUOTED", "postgres", "QUOTED"),
        ("DAILY", "postgres", "DAILY"),
    ]
    assert answer.json["missing"] == ["NOPE"]


@pytest.mark.parametrize(
    "path", ["/prices/NOPE", "/prices/NOPE?timeframe=1d", "/chains/NOPE", "/iv/NOPE", "/history/NOPE", "/runs/999999"]
)
async def test_what_is_not_known_is_a_problem_that_says_what_to_do(http: Http, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status, answer.json["type"]) == (404, "urn:quotebus:not_found")
    assert "POST /refresh" in answer.json["detail"] or "/runs" in answer.json["detail"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/prices/A?timeframe=2d", "timeframe"),
        ("/prices/A?tf=1d", "tf"),
        ("/prices/A?timeframe=1d&timeframe=1h", "timeframe"),
        ("/prices/" + "x" * 65, "symbol"),
        ("/prices/%00", "symbol"),
        ("/prices/%20", "symbol"),
        ("/prices", "symbols"),
        ("/prices?symbols=,", "symbols"),
        ("/prices?symbols=" + ",".join(f"S{n}" for n in range(101)), "symbols"),
        ("/history/A?start=yesterday", "start"),
        ("/history/A?limit=0", "limit"),
        ("/history/A?start=2026-01-02&end=2026-01-02", "end"),
        ("/history/A?limit=x", "limit"),
        ("/history/A?format=xml", "format"),
        ("/coverage", "symbols"),
        ("/runs?before=0.5", "before"),
        ("/runs?job=No%20Job", "job"),
        ("/stream?subject=a..b", "subject"),
        ("/stream?subject=quote.A%0D%0AB", "subject"),
        ("/stream?last_event_id=x", "last_event_id"),
    ],
)
async def test_a_parameter_that_cannot_be_is_a_problem_that_names_it(http: Http, path: str, field: str) -> None:
    answer = await http.get(path)
    assert (answer.status, answer.fields) == (400, [field]), answer.body


async def test_history_comes_by_pages_and_as_csv_and_ndjson(http: Http) -> None:
    whole = (await http.get("/history/brk.b")).json
    assert (whole["feed"], whole["basis"], len(whole["at"]), whole["next_start"]) == ("delayed", "split", 40, None)
    seen: list[float] = []
    start = FIRST.date().isoformat()
    while start:
        page = (await http.get(f"/history/BRK.B?limit=15&start={start.replace('+', '%2B')}")).json
        seen, start = seen + page["close"], page["next_start"]
    assert seen == whole["close"] == [100.0 + n for n in range(40)]
    lines = (await http.get("/history/BRK.B?format=ndjson")).body.splitlines()
    assert [json.loads(line)["close"] for line in lines] == whole["close"]
    first, last = FIRST.date(), (FIRST + 2 * DAY).date()
    header, *rows = (await http.get(f"/history/BRK.B?format=csv&start={first}&end={last}")).body.decode().splitlines()
    assert header.split(",")[:4] == ["symbol", "timeframe", "at", "open"]
    assert [row.split(",")[2] for row in rows] == ["2024-01-02T00:00:00.000000Z", "2024-01-03T00:00:00.000000Z"]
    made_up = (await http.get("/history/BRK.B?feed=synthetic")).json
    assert made_up["close"] == [1.0, 2.0]
    unknown = await http.get("/history/BRK.B?feed=sip")
    assert (unknown.status, "split delayed" in unknown.json["detail"]) == (404, True)
    assert (await http.get("/history/BRK.B?start=2030-01-01")).json["at"] == []


async def test_coverage_says_what_was_asked_and_seen(http: Http) -> None:
    series = (await http.get("/coverage?symbols=BRK.B,AAPL&dataset=bars")).json["series"]
    assert [(each["symbol"], each["feed"], each["observations"], each["empty"]) for each in series] == [
        ("BRK.B", "synthetic", 1, 0),
        ("BRK.B", "delayed", 1, 0),
    ]
    [[begin, end]] = series[1]["covered"]
    assert begin == "2024-01-02T00:00:00Z"
    assert end > "2024-02-10"


async def test_a_run_that_was_refused_says_why(running: tuple[Deployment, Http]) -> None:
    deployment, http = running
    planned = RunPlanned(
        run_id="6", request_id="lost@6", job="lost", lane="live", dataset="quote", requested_at=NOW, wanted_at=NOW,
        deadline_at=NOW + timedelta(hours=1), planned=0, symbols=[], refused="universe activ is not defined",
    )  # fmt: skip
    await deployment.bus.publish(subjects.run("planned", "lost"), planned)

    async def over() -> bool:
        return any(run["finished_at"] for run in (await http.get("/runs?job=lost")).json["runs"])

    await until(over)
    run = (await http.get("/runs/6")).json["run"]
    assert (run["outcomes"], run["refused"]) == ({}, "universe activ is not defined")


async def test_runs_tell_outcomes_calls_and_lateness(running: tuple[Deployment, Http]) -> None:
    deployment, http = running
    slot, wanted = NOW - timedelta(seconds=30), NOW - timedelta(seconds=20)
    planned = RunPlanned(
        run_id="7", request_id="close@7", job="close", lane="live", dataset="bars", timeframe="1d", slot_at=slot,
        requested_at=wanted, wanted_at=wanted, deadline_at=NOW + timedelta(hours=1), planned=2, symbols=["AAPL", "GONE"],
    )  # fmt: skip
    await deployment.bus.publish(subjects.run("planned", "close"), planned)

    async def known() -> bool:
        return (await http.get("/runs/7")).status == 200

    await until(known)
    run = (await http.get("/runs/7")).json
    assert (run["run"]["finished_at"], run["run"]["late_s"]) == (None, 10.0)
    assert [each["outcome"] for each in run["symbols"]] == [None, None]
    for symbol, outcome, reason in (("AAPL", "refreshed", None), ("GONE", "failed", "not_found")):
        result = RunResult(
            run_id="7", request_id="close@7", job="close", symbol=symbol, outcome=outcome, reason=reason, provider="tiingo",
            wanted_at=wanted, called_at=NOW, at=NOW, calls=1,
        )  # fmt: skip
        await deployment.bus.publish(subjects.run("result", "close"), result)

    async def over() -> bool:
        return (await http.get("/runs?job=close")).json["runs"][0]["took_s"] is not None

    await until(over)
    [found] = (await http.get("/runs?job=close&limit=5")).json["runs"]
    assert (found["outcomes"], found["calls"], found["refused"]) == ({"refreshed": 1, "failed": 1}, {"tiingo": 2}, None)
    symbols = (await http.get("/runs/7")).json["symbols"]
    assert [(each["symbol"], each["outcome"], each["reason"]) for each in symbols] == [
        ("AAPL", "refreshed", None),
        ("GONE", "failed", "not_found"),
    ]


async def test_redis_down_costs_nothing_but_its_speed(tmp_path: Path) -> None:
    async with with_gateways(tmp_path, ("cacher",)) as (deployment, [http]):
        assert deployment.redis is not None
        await publish(deployment, quote("AAPL", 12.5))

        async def stored() -> bool:
            return (await http.get("/prices/AAPL")).status == 200

        await until(stored)
        await deployment.redis.kill()
        await asyncio.sleep(0.3)
        for _ in range(8):
            answer = await http.get("/prices/AAPL")
            assert (answer.status, answer.headers["Quotebus-Source"]) == (200, "postgres")
        await deployment.redis.start()

        async def from_redis() -> bool:
            return (await http.get("/prices/AAPL")).headers["Quotebus-Source"] == "redis"

        await until(from_redis)


async def test_postgres_down_is_a_problem_that_says_what_to_do_and_redis_still_answers(tmp_path: Path) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]):
        assert deployment.redis is not None
        async with Redis.from_url(deployment.redis.url) as redis:
            fresh = quote_document("AAPL", timedelta(seconds=1))
            await redis.set(dataset_key(RedisSettings(), "quote", "AAPL"), encode_document(fresh, compress=False))
        assert (await http.get("/runs")).status == 200
        await deployment.postgres.kill()
        for path in ("/prices/MSFT", "/history/AAPL", "/history/AAPL?format=csv", "/coverage?symbols=AAPL", "/runs", "/runs/1"):
            answer = await http.get(path)
            assert (answer.status, answer.json["type"]) == (503, "urn:quotebus:postgres_unavailable"), path
            assert "`dsn` of [postgres]" in answer.json["detail"]
            assert "Retry-After" in answer.headers
        assert (await http.get("/prices/AAPL")).status == 200
        assert (await http.get("/readyz")).status == 200, "whoever balances load shall not take every gateway away"
        await deployment.postgres.start()

        async def back() -> bool:
            return (await http.get("/runs")).status == 200

        await until(back)


async def test_a_database_that_is_not_migrated_is_a_problem_that_says_so(tmp_path: Path) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]):
        await deployment.rows("DROP VIEW run_results")
        await deployment.rows("DROP VIEW run_history")
        answer = await http.get("/runs")
        assert (answer.status, "run `quotebus migrate`" in answer.json["detail"]) == (503, True)
