"""What a provider's answers teach, against a real bus: told once for all replicas, whoever met it and however often."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from structlog.testing import capture_logs

from contracts import subjects
from services.fetcher.circuit.key_state import KeyState
from services.fetcher.quota.ledger import permits_used
from services.runtime.bus import Bus
from services.runtime.quota import QuotaWindow
from tests.connected.fake_tiingo import PlayedTiingo
from tests.connected.fetcher.fetcher_harness import fetching, results, settings_for
from tests.connected.fetcher.keys_harness import account, asked

LIMIT_IN_WORDS = "Error: You have run over your hourly request allocation."


@pytest.fixture
async def tiingo() -> AsyncIterator[PlayedTiingo]:
    async with PlayedTiingo().serve() as played:
        yield played


@asynccontextmanager
async def told(bus: Bus) -> AsyncIterator[list[KeyState]]:
    """Every change of a key's state that is told meanwhile."""
    changes: list[KeyState] = []
    watcher = await (await bus.js.key_value(subjects.STATE_BUCKET)).watch("key.>")

    async def listen() -> None:
        async for entry in watcher:
            if entry is not None and entry.value:
                changes.extend([msgspec.json.decode(entry.value, type=KeyState)])

    listening = asyncio.create_task(listen())
    yield changes
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await watcher.stop()


async def until_told(changes: list[KeyState]) -> None:
    async with asyncio.timeout(20):
        while not changes:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)  # whoever else would tell it has had the time to


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [(429, "", {"Retry-After": "120"}), (429, "slow down", {}), (200, LIMIT_IN_WORDS, {})],
)
async def test_a_refusal_met_by_many_calls_of_two_replicas_is_one_change_and_one_warning(
    bus: Bus, nats_url: str, tiingo: PlayedTiingo, status: int, body: str, headers: dict[str, str]
):
    tiingo.refusals["first"], tiingo.headers["first"] = (status, body), headers
    settings = settings_for(nats_url, tiingo=account(tiingo, per_second=50))
    with capture_logs() as logs:
        async with fetching(bus, settings), fetching(bus, settings), told(bus) as changes:
            before = datetime.now(UTC)
            await bus.publish("refresh.request.live", asked(30))
            await until_told(changes)
    [state] = changes
    assert (state.state, state.pace, state.refusals) == ("cooling_down", 0.5, 1)
    assert state.until is not None
    if headers:
        assert timedelta(seconds=119) < state.until - before < timedelta(seconds=130)
    assert len([log for log in logs if log["event"] == "provider_circuit_opened"]) == 1
    assert tiingo.calls["first"] <= 8


async def test_a_second_refusal_slows_down_further_and_rests_longer(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    tiingo.refusals["first"], tiingo.headers["first"] = (429, ""), {"Retry-After": "1"}
    async with fetching(bus, settings_for(nats_url, tiingo=account(tiingo, per_second=50))), told(bus) as changes:
        await bus.publish("refresh.request.live", asked(3))
        async with asyncio.timeout(20):
            while len(refused := [change for change in changes if change.state == "cooling_down"]) < 2:
                await asyncio.sleep(0.02)
        tiingo.refusals.clear()
        outcomes = await results(bus, 3)
        async with asyncio.timeout(20):
            while changes[-1].state != "ok":
                await asyncio.sleep(0.02)
    assert {r.outcome for r in outcomes} == {"refreshed"}
    assert refused[0].pace == 0.5
    assert refused[1].pace < 0.3
    assert [change.refusals for change in (refused[1], changes[-1])] == [2, 0]
    assert changes[-1].pace_at(datetime.now(UTC)) < 0.6


async def test_a_person_who_deletes_the_state_ends_the_rest(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    tiingo.refusals["first"], tiingo.headers["first"] = (429, ""), {"Retry-After": "31000000"}
    async with fetching(bus, settings_for(nats_url, tiingo=account(tiingo, per_second=50))), told(bus) as changes:
        before = datetime.now(UTC)
        await bus.publish("refresh.request.live", asked(3))
        await until_told(changes)
        assert changes[0].until is not None
        assert changes[0].until - before < timedelta(days=1, minutes=1)
        tiingo.refusals.clear()
        await (await bus.js.key_value(subjects.STATE_BUCKET)).delete(subjects.key_state("tiingo", "k1"))
        assert {r.outcome for r in await results(bus, 3)} == {"refreshed"}


async def test_permits_that_others_have_spent_are_burned_and_no_call_is_made_for_them(
    bus: Bus, nats_url: str, tiingo: PlayedTiingo
):
    tiingo.headers["first"] = {"X-RateLimit-Remaining-Day": "4", "X-RateLimit-Limit-Day": "100"}
    settings = settings_for(nats_url, tiingo=account(tiingo, per_day=100))
    day = QuotaWindow("tiingo", "k1", "day", 100, "America/New_York")
    with capture_logs() as logs:
        async with fetching(bus, settings), fetching(bus, settings):
            await bus.publish("refresh.request.live", asked(1))
            await results(bus, 1)
            async with asyncio.timeout(20):
                while (await permits_used(bus.js, day))[0] < 96:
                    await asyncio.sleep(0.02)
            tiingo.headers.clear()
            await bus.publish("refresh.request.live", asked(50))
            await results(bus, 5)
            await asyncio.sleep(0.5)
    assert tiingo.calls["first"] == 5
    assert (await permits_used(bus.js, day))[0] == 100
    [burned] = [log for log in logs if log["event"] == "permits_burned"]
    assert (burned["permits"], burned["left"], burned["log_level"]) == (95, 4, "warning")


async def test_a_lower_limit_that_is_told_with_every_answer_lowers_the_pace_once(bus: Bus, nats_url: str, tiingo: PlayedTiingo):
    tiingo.headers["first"] = {"X-RateLimit-Limit-Minute": "300"}
    settings = settings_for(nats_url, tiingo=account(tiingo, per_minute=600))
    with capture_logs() as logs:
        async with fetching(bus, settings), fetching(bus, settings), told(bus) as changes:
            await bus.publish("refresh.request.live", asked(12))
            await results(bus, 12)
    [state] = changes
    assert (state.state, state.ceilings) == ("ok", {"minute": 0.5})
    [learned] = [log for log in logs if log["event"] == "limit_learned"]
    assert (learned["ours"], learned["theirs"], learned["log_level"]) == (600, 300, "warning")
