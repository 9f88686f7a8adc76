"""Plan and work against a real NATS and a provider over HTTP: what becomes of requests, good, double, late, dead and malformed."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from nats.js.errors import KeyNotFoundError

from contracts import subjects
from contracts.dead_letter import DeadLetter
from contracts.fetch_task import FetchTask
from contracts.message import decode
from contracts.price_events import PriceBars
from contracts.refresh_ask import RefreshAsk
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunResult
from services.fetcher.accounts import quotas
from services.fetcher.on_refresh_ask import RefreshAskHandler
from services.runtime.bus import Bus
from services.runtime.jetstream.provision import drift, provision
from services.runtime.jetstream.topology import topology
from services.runtime.puller import Puller
from services.runtime.settings import ProviderSettings
from tests.connected.fake_yahoo import PlayedYahoo
from tests.connected.fetcher.fetcher_harness import fetching, results, settings_for, stored


@pytest.fixture
async def yahoo() -> AsyncIterator[PlayedYahoo]:
    async with PlayedYahoo().serve() as played:
        yield played


def played(yahoo: PlayedYahoo, per_second: int = 0) -> ProviderSettings:
    """Yahoo's account with the played one; no limit unless one is given."""
    return ProviderSettings(base_url=yahoo.url, per_second=per_second, burst=max(1, per_second))


async def dead(bus: Bus, count: int) -> list[DeadLetter]:
    async with asyncio.timeout(20):
        while len(found := await stored(bus, subjects.DEAD, "refresh.dead")) < count:
            await asyncio.sleep(0.05)
    return [decode(body, DeadLetter) for body in found]


async def test_the_shortest_request_becomes_bars_on_their_topic_to_the_digit(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    settings = settings_for(nats_url, yahoo=played(yahoo))
    async with fetching(bus, settings):
        await bus.nc.publish("refresh.request.manual", b'{"symbols":["aapl","BRK.B"]}')
        outcomes = await results(bus, 2)
    assert {(r.symbol, r.outcome, r.rows) for r in outcomes} == {("AAPL", "refreshed", 20), ("BRK.B", "refreshed", 20)}
    [body] = await stored(bus, subjects.PRICES, "price.bars.1d.BRK_B")
    bars = decode(body, PriceBars)
    assert bars.at[0] == datetime(2026, 1, 2, tzinfo=UTC)
    assert (bars.open[0], bars.high[0], bars.low[0], bars.close[0], bars.volume[0]) == (99.5, 101.0, 99.0, 100.0, 1000.0)
    assert (bars.symbol, bars.provider, bars.currency, bars.basis) == ("BRK.B", "yahoo", "USD", "split")
    assert sum(r.calls for r in outcomes) == len(yahoo.calls) == 2
    assert await drift(bus.js, topology(settings, quotas(settings))) == []


async def test_the_same_wish_of_many_costs_two_calls_and_everybody_is_served(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.delay_s = 0.5
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        requests = [await bus.publish("refresh.request.live", RefreshRequest(symbols=["AAPL"])) for _ in range(12)]
        async with asyncio.timeout(30):
            while True:
                outcomes = [decode(body, RunResult) for body in await stored(bus, subjects.RUNS, "run.result")]
                calls = [r.called_at for r in outcomes if r.called_at]
                wishes = {r.run_id: r.wanted_at for r in outcomes}
                if len(wishes) == 12 and calls and max(calls) >= max(wishes.values()):
                    break
                await asyncio.sleep(0.1)
    assert len(requests) == 12
    assert yahoo.asked["AAPL"] <= 3


async def test_lanes_do_not_pay_twice_for_the_same_thing(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    wanted = datetime.now(UTC) - timedelta(seconds=60)
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["AAPL"], wanted_at=wanted))
        await results(bus, 1)
        await bus.publish("refresh.request.backfill", RefreshRequest(symbols=["AAPL"], wanted_at=wanted))
        outcomes = await results(bus, 2)
    assert [r.outcome for r in outcomes] == ["refreshed", "merged"]
    assert outcomes[1].called_at == outcomes[0].called_at
    assert yahoo.asked["AAPL"] == 1


async def test_what_is_fresh_enough_is_skipped_with_its_reason(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["AAPL"]))
        await results(bus, 1)
        await bus.publish("refresh.request.live", RefreshRequest(symbols=["AAPL", "MSFT"], max_age_s=3600))
        outcomes = await results(bus, 3)
    assert {(r.symbol, r.outcome, r.reason) for r in outcomes[1:]} == {("AAPL", "skipped", "fresh"), ("MSFT", "refreshed", None)}


@pytest.mark.parametrize(
    ("subject", "body", "field"),
    [
        ("refresh.request.manual", b"not json", "malformed"),
        ("refresh.request.manual", b'{"symbol":["AAPL"]}', "symbol"),
        ("refresh.request.manual", b'{"symbols":[]}', "symbols"),
        ("refresh.request.manual", b'{"symbols":["AAPL"],"start":"2024-02-01","end":"2024-01-01"}', "end"),
        ("refresh.request.manual", b'{"symbols":["AAPL"],"wanted_at":"2024-01-01T00:00:00"}', "wanted_at"),
        ("refresh.request.urgent", b'{"symbols":["AAPL"]}', "lane"),
        ("refresh.request.manual", b'{"symbols":["AAPL"],"provider":"yahooo"}', "yahoo"),
        ("refresh.request.manual", b'{"symbols":["AAPL"],"provider":"derived"}', "derived has no 1d bars"),
        ("refresh.request.manual", b'{"symbols":["' + "é".encode() * 60 + b'"]}', "symbol"),
        ("refresh.request.manual", b"\xff\xfe", "malformed"),
    ],
)
async def test_a_bad_request_is_a_dead_letter_that_names_the_field_and_the_next_one_is_served(
    bus: Bus, nats_url: str, yahoo: PlayedYahoo, subject: str, body: bytes, field: str
):
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.js.publish(subject, body)
        [letter] = await dead(bus, 1)
        await bus.nc.publish("refresh.request.manual", b'{"symbols":["GOOD"]}')
        async with asyncio.timeout(20):
            while not await stored(bus, subjects.PRICES, "price.bars.1d.GOOD"):
                await asyncio.sleep(0.05)
    assert field in f"{letter.reason} {letter.message}"
    assert letter.subject == subject
    assert len(await dead(bus, 1)) == 1


async def test_a_malformed_task_never_stops_the_worker(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.publish("task.yahoo.manual.bars.1d.latest.BAD", b'{"provider":"yahoo"}')
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["AAPL"]))
        [letter] = await dead(bus, 1)
        await results(bus, 1)
    assert letter.reason == "malformed"
    assert "missing required field" in letter.message


async def test_a_dead_symbol_is_a_dead_letter_and_the_others_are_fetched(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.dead = frozenset({"GONE"})
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["AAPL", "GONE", "MSFT"]))
        outcomes = {r.symbol: r for r in await results(bus, 3)}
        [letter] = await dead(bus, 1)
    assert (outcomes["GONE"].outcome, outcomes["GONE"].reason) == ("failed", "not_found")
    assert (letter.reason, letter.symbol) == ("not_found", "GONE")
    assert outcomes["AAPL"].outcome == outcomes["MSFT"].outcome == "refreshed"


async def test_a_provider_that_fails_is_tried_again_and_then_given_up_on(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.fault = web.Response(status=500, body=b"oops")
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["AAPL"]))
        [outcome] = await results(bus, 1)
    assert (outcome.outcome, outcome.reason) == ("failed", "server_error")
    assert len(yahoo.calls) == 4


async def stored_state(bus: Bus) -> str:
    try:
        entry = await (await bus.js.key_value(subjects.STATE_BUCKET)).get(subjects.key_state("yahoo", "k1"))
    except KeyNotFoundError:
        return "ok"
    return str(json.loads(entry.value or b"{}").get("state", "ok"))


async def test_a_throttled_provider_is_not_called_and_its_tasks_wait(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.fault = web.Response(status=429, body=b"Too Many Requests")
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["AAPL", "MSFT", "IBM"]))
        async with asyncio.timeout(20):
            while await stored_state(bus) != "cooling_down":
                await asyncio.sleep(0.05)
    assert len(yahoo.calls) <= 4
    assert (await bus.js.stream_info(subjects.TASKS)).state.messages == 3


async def test_a_task_whose_time_is_up_is_let_go_at_no_call_for_the_cacher_to_tell(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        late = datetime.now(UTC) - timedelta(seconds=1)
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["AAPL"], expires_at=late))
        await bus.publish("refresh.request.manual", RefreshRequest(symbols=["MSFT"]))
        [outcome] = await results(bus, 1)
        async with asyncio.timeout(20):
            while (await bus.js.stream_info(subjects.TASKS)).state.messages:
                await asyncio.sleep(0.05)
    assert outcome.symbol == "MSFT"
    assert yahoo.asked == {"MSFT": 1}
    assert not await stored(bus, subjects.DEAD, "refresh.dead")


async def test_tasks_of_a_removed_provider_are_moved_or_explained(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    both = settings_for(nats_url, yahoo=played(yahoo))
    await provision(bus.js, topology(both, quotas(both)))
    now = datetime.now(UTC)
    task = FetchTask(
        provider="tiingo",
        lane="live",
        symbol="AAPL",
        dataset="bars",
        timeframe="1d",
        wanted_at=now,
        expires_at=now + timedelta(hours=1),
        request_id="r",
        run_id="1",
    )
    await bus.publish("task.tiingo.live.bars.1d.latest.AAPL", task)
    async with fetching(bus, both):
        [outcome] = await results(bus, 1)
    assert (outcome.provider, outcome.outcome) == ("yahoo", "refreshed")


async def test_an_ask_is_answered_with_the_outcome_of_each_symbol(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.dead = frozenset({"GONE"})
    desk = RefreshAskHandler()
    desk.open(bus)
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        answer = await desk.on_refresh_ask(b'{"symbols":["AAPL","gone"],"timeout_s":10}')
        refused = await desk.on_refresh_ask(b'{"symbols":"AAPL"}')
    assert {(o.symbol, o.outcome, o.rows) for o in answer.outcomes} == {("AAPL", "refreshed", 20), ("GONE", "failed", 0)}
    assert refused.error is not None
    assert "symbols" in refused.error


async def test_an_ask_that_runs_out_of_time_says_what_is_pending(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.delay_s = 2
    desk = RefreshAskHandler()
    desk.open(bus)
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        ask = RefreshAsk(symbols=["AAPL"], timeout_s=0.3)
        answer = await desk.on_refresh_ask(json.dumps({"symbols": ask.symbols, "timeout_s": ask.timeout_s}).encode())
    assert [o.outcome for o in answer.outcomes] == ["pending"]


async def test_a_stopped_fetcher_leaves_no_message_waiting_for_its_ack_timeout(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.delay_s = 30
    async with fetching(bus, settings_for(nats_url, yahoo=played(yahoo))):
        await bus.publish("refresh.request.live", RefreshRequest(symbols=[f"S{i}" for i in range(30)]))
        async with asyncio.timeout(10):
            while len(yahoo.calls) < 1:
                await asyncio.sleep(0.05)
    successor = Puller(bus, subjects.TASKS, subjects.lane_consumer("yahoo", "live"))
    got: set[str] = set()
    while len(got) < 30:
        batch = await successor.pull(30, 2)
        assert batch, f"{30 - len(got)} messages wait for their ack timeout"
        got |= {msg.subject for msg in batch}
    await successor.close()


async def test_the_provider_is_never_asked_faster_than_its_limit(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    settings = settings_for(nats_url, yahoo=played(yahoo, 10))
    async with fetching(bus, settings), fetching(bus, settings):
        await bus.publish("refresh.request.live", RefreshRequest(symbols=[f"S{i}" for i in range(40)]))
        outcomes = await results(bus, 40)
    assert {r.outcome for r in outcomes} == {"refreshed"}
    assert yahoo.most_in_any(1.0) <= 10
    assert len(yahoo.calls) == 40
