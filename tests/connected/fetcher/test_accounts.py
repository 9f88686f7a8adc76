"""Several keys of one provider, against a real bus and a provider over HTTP: each has its own limits and rests by itself."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from nats.js.errors import KeyNotFoundError
from structlog.testing import capture_logs

from contracts import subjects
from contracts.refresh_request import RefreshRequest
from services.fetcher.circuit.key_state import KeyState
from services.runtime.bus import Bus
from tests.connected.fake_tiingo import PlayedTiingo
from tests.connected.fetcher.fetcher_harness import fetching, results, settings_for
from tests.connected.fetcher.keys_harness import account, asked


@pytest.fixture(autouse=True)
def far_from_a_reset() -> None:
    now = datetime.now(UTC) - timedelta(hours=5)
    if (now + timedelta(minutes=2)).date() != (now - timedelta(minutes=1)).date():
        pytest.skip("too near to midnight in New York for a day's permits")


@pytest.fixture
async def tiingo() -> AsyncIterator[PlayedTiingo]:
    async with PlayedTiingo().serve() as played:
        yield played


async def state_of(bus: Bus, key: str) -> KeyState:
    entry = await (await bus.js.key_value(subjects.STATE_BUCKET)).get(subjects.key_state("tiingo", key))
    return msgspec.json.decode(entry.value or b"", type=KeyState)


async def blocked_as(bus: Bus, key: str) -> str:
    try:
        return (await state_of(bus, key)).state
    except KeyNotFoundError:
        return "ok"


async def test_each_key_has_its_own_limit_and_together_they_serve_everything(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    settings = settings_for(nats_url, tiingo=account(tiingo, "second", per_day=10))
    async with fetching(bus, settings), fetching(bus, settings):
        await bus.publish("refresh.request.live", asked(20))
        outcomes = await results(bus, 20)
    assert {r.outcome for r in outcomes} == {"refreshed"}
    assert tiingo.calls == {"first": 10, "second": 10}


async def test_a_refused_key_stops_nobody_but_itself(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    tiingo.refusals["second"] = (401, '{"detail":"Invalid token."}')
    with capture_logs() as logs:
        async with fetching(bus, settings_for(nats_url, tiingo=account(tiingo, "second"))):
            await bus.publish("refresh.request.live", asked(30))
            outcomes = await results(bus, 29)
            assert (await state_of(bus, "second")).state == "stopped"
    assert {r.outcome for r in outcomes} <= {"refreshed", "failed"}
    assert 1 <= tiingo.calls["second"] <= 4
    assert tiingo.calls["first"] >= 26
    assert [log["key"] for log in logs if log["event"] == "provider_circuit_opened"] == ["second"]


async def test_when_every_key_is_spent_no_call_is_made_and_the_tasks_wait(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    async with fetching(bus, settings_for(nats_url, tiingo=account(tiingo, "second", per_day=3))):
        await bus.publish("refresh.request.live", asked(8))
        await results(bus, 6)
        async with asyncio.timeout(20):
            while [await blocked_as(bus, key) for key in ("k1", "second")] != ["quota_spent", "quota_spent"]:
                await asyncio.sleep(0.05)
        assert (await bus.js.stream_info(subjects.TASKS)).state.messages == 2
    assert tiingo.calls == {"first": 3, "second": 3}


async def test_symbols_of_a_month_go_to_the_key_that_counts_them_or_has_room(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    settings = settings_for(nats_url, tiingo=account(tiingo, "second", symbols_per_month=6))
    async with fetching(bus, settings):
        for rounds in (1, 2, 3):
            await bus.publish("refresh.request.live", asked(12))
            outcomes = await results(bus, 12 * rounds)
        await bus.publish("refresh.request.live", RefreshRequest(symbols=["ONE_MORE"]))
        *_, last = await results(bus, 37)
    assert {r.outcome for r in outcomes} == {"refreshed"}
    assert [len(tiingo.symbols[key]) for key in ("first", "second")] == [6, 6]
    assert (last.outcome, last.reason, last.calls) == ("failed", "plan_restricted", 0)


async def test_a_spent_share_rests_its_lane_and_no_other(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    given = msgspec.structs.replace(account(tiingo, per_day=20), kept_for_manual=0.2, kept_for_live=0.3)
    async with fetching(bus, settings_for(nats_url, tiingo=given)):
        await bus.publish("refresh.request.backfill", asked(15))
        await results(bus, 10)
        async with asyncio.timeout(20):
            while "backfill" not in (await state_of(bus, "k1")).lanes:
                await asyncio.sleep(0.05)
        await bus.publish("refresh.request.live", RefreshRequest(symbols=["L1", "L2"]))
        outcomes = await results(bus, 12)
        state = await state_of(bus, "k1")
    assert {r.outcome for r in outcomes} == {"refreshed"}
    assert (state.state, set(state.lanes)) == ("ok", {"backfill"})
    assert tiingo.calls["first"] == 12
