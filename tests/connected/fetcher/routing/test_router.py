"""Two providers of one kind of series over HTTP, on a real NATS: who is asked, in whose place, and what a breaker lets through."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from contracts import subjects
from contracts.message import decode
from contracts.price_events import PriceBars
from contracts.refresh_request import RefreshRequest
from services.runtime.bus import Bus, connect
from services.runtime.settings import FetcherSettings, ProviderSettings, Settings
from tests.connected.deployment import deployed, until
from tests.connected.fake_pair import PlayedPair
from tests.connected.fake_yahoo import PlayedYahoo
from tests.connected.fetcher.fetcher_harness import fetching, is_in_state, run, settings_for, state_of, stored


@pytest.fixture
async def pair() -> AsyncIterator[PlayedPair]:
    async with PlayedPair().serve() as played:
        yield played


def both(nats_url: str, pair: PlayedPair, tiingo: dict[str, Any] | None = None, **terms: Any) -> Settings:
    """Tiingo first, Alpha Vantage second."""
    accounts = {"tiingo": pair.settings(priority=1, **(tiingo or {})), "alpha_vantage": pair.settings(priority=2)}
    settings = settings_for(nats_url, **accounts)
    return msgspec.structs.replace(settings, fetcher=FetcherSettings(ack_wait_s=5, **terms))


async def bars(bus: Bus, symbol: str) -> list[PriceBars]:
    return [decode(body, PriceBars) for body in await stored(bus, subjects.PRICES, subjects.price("bars", "1d", symbol))]


async def provenance(bus: Bus, symbol: str) -> list[tuple[str, list[str], str | None, str | None]]:
    return [(e.provider, e.fallback_from, e.fallback_reason, e.delay) for e in await bars(bus, symbol)]


async def test_what_the_first_does_not_have_the_second_gives_and_says_for_whom_and_why(bus: Bus, nats_url: str, pair: PlayedPair):
    pair.missing = {("tiingo", "GONE")}
    async with fetching(bus, both(nats_url, pair)):
        first = await run(bus, "GONE", "AAPL")
        again = await run(bus, "GONE", "AAPL")
    assert {(r.symbol, r.provider, r.outcome) for r in first + again} == {
        ("AAPL", "tiingo", "refreshed"),
        ("GONE", "alpha_vantage", "refreshed"),
    }
    assert await provenance(bus, "GONE") == [("alpha_vantage", ["tiingo"], "not_found", "end_of_day")] * 2
    assert await provenance(bus, "AAPL") == [("tiingo", UNSET, None, "end_of_day")] * 2
    # The second run did not ask the first one again: it is known not to have it.
    assert pair.asked["tiingo", "GONE"] == 1


async def test_what_neither_has_is_a_dead_letter_once_and_then_skipped_at_no_call(bus: Bus, nats_url: str, pair: PlayedPair):
    pair.missing = {("tiingo", "GONE"), ("alpha_vantage", "GONE")}
    async with fetching(bus, both(nats_url, pair)):
        outcomes = [(await run(bus, "GONE"))[0].outcome for _ in range(3)]
    assert outcomes == ["failed", "skipped", "skipped"]
    assert pair.calls == {"tiingo": 1, "alpha_vantage": 1}
    assert (await bus.js.stream_info(subjects.DEAD)).state.messages == 1


async def test_rows_of_another_basis_or_feed_do_not_stand_in(bus: Bus, nats_url: str, pair: PlayedPair):
    pair.missing = {("tiingo", "GONE")}
    async with PlayedYahoo().serve() as yahoo:
        accounts = {
            "tiingo": pair.settings(priority=1),
            "yahoo": ProviderSettings(base_url=yahoo.url, per_second=0),
            "synthetic": ProviderSettings(enabled=True),
        }
        async with fetching(bus, settings_for(nats_url, **accounts)):
            [result] = await run(bus, "GONE")
    assert (result.outcome, result.provider, result.reason) == ("failed", "tiingo", "not_found")
    assert not yahoo.calls


async def test_a_provider_whose_key_is_refused_is_replaced_and_not_asked_again(bus: Bus, nats_url: str, pair: PlayedPair):
    pair.faults = {"tiingo": 401}
    async with fetching(bus, both(nats_url, pair)):
        assert {(r.outcome, r.provider) for r in await run(bus, "A", "B", "C")} == {("refreshed", "alpha_vantage")}
        calls = pair.calls["tiingo"]
        assert {(r.outcome, r.provider) for r in await run(bus, "D", "E")} == {("refreshed", "alpha_vantage")}
        assert (await state_of(bus, "tiingo"))["state"] == "stopped"
    # As many as may be under way at once had left before the first refusal came.
    assert pair.calls["tiingo"] == calls <= 4
    assert await provenance(bus, "D") == [("alpha_vantage", ["tiingo"], "stopped", "end_of_day")]


async def test_with_nobody_else_a_refused_key_keeps_jobs_waiting_and_tells_a_person_at_once(
    bus: Bus, nats_url: str, pair: PlayedPair
):
    pair.faults = {"tiingo": 401}
    async with fetching(bus, settings_for(nats_url, tiingo=pair.settings())):
        [told] = await run(bus, "A", lane="manual")
        assert (told.outcome, told.reason) == ("failed", "unauthorized")
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["B"]))
        await until(lambda: waiting_tasks(bus, 1))
        assert pair.calls["tiingo"] == 1


async def waiting_tasks(bus: Bus, count: int) -> bool:
    return (await bus.js.stream_info(subjects.TASKS)).state.messages == count


async def test_tasks_of_a_throttled_provider_go_to_the_other_one(bus: Bus, nats_url: str, pair: PlayedPair):
    pair.faults = {"tiingo": 429}
    async with fetching(bus, both(nats_url, pair)):
        assert {(r.outcome, r.provider) for r in await run(bus, "A", "B", "C")} == {("refreshed", "alpha_vantage")}
    assert (await provenance(bus, "A"))[0][2] == "cooling_down"


async def test_what_is_left_of_the_day_goes_to_the_first_and_the_rest_to_the_second(bus: Bus, nats_url: str, pair: PlayedPair):
    # Where it is noon: near midnight no call is made. Of four calls a day one is kept for requests by hand.
    noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
    async with fetching(bus, both(nats_url, pair, {"per_day": 4, "day_zone": noon})):
        outcomes = await run(bus, *"ABCDEFGH")
        again = await run(bus, "A")
    assert {r.outcome for r in outcomes + again} == {"refreshed"}
    assert pair.calls == {"tiingo": 3, "alpha_vantage": 6}
    assert await provenance(bus, "H") == [("alpha_vantage", ["tiingo"], "quota_spent", "end_of_day")]


async def test_an_open_breaker_lets_one_call_through_when_its_pause_is_over_however_many_fetchers_wait(
    bus: Bus, nats_url: str, pair: PlayedPair
):
    pair.faults = {"tiingo": 500}
    settings = settings_for(nats_url, tiingo=pair.settings())
    settings = msgspec.structs.replace(
        settings, fetcher=FetcherSettings(ack_wait_s=5, breaker_failures=3, breaker_pause_s=1.5, expires_after_s=60)
    )
    async with connect(settings.nats, "other") as other, fetching(bus, settings), fetching(other, settings):
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=[f"S{i}" for i in range(30)]))
        await until(lambda: is_in_state(bus, "tiingo", "breaker_open"))
        await until(lambda: quiet(pair))
        before = pair.calls["tiingo"]
        opened = await state_of(bus, "tiingo")
        await until(lambda: another_pause(bus, opened["refusals"]))
        # The trial failed: it was one call, and the next pause is twice as long.
        assert pair.calls["tiingo"] == before + 1
        pair.faults = {}
        await until(lambda: all_refreshed(bus, 30))
        assert (await state_of(bus, "tiingo"))["state"] == "ok"


async def quiet(pair: PlayedPair) -> bool:
    calls = pair.calls["tiingo"]
    await asyncio.sleep(0.3)
    return pair.calls["tiingo"] == calls


async def another_pause(bus: Bus, than: int) -> bool:
    state = await state_of(bus, "tiingo")
    return state["state"] == "breaker_open" and state["refusals"] == than + 1


async def all_refreshed(bus: Bus, count: int) -> bool:
    state = (await bus.js.stream_info(subjects.PRICES, subjects_filter="price.bars.1d.>")).state
    return len(state.subjects or {}) == count


async def test_tasks_that_wait_for_a_provider_that_rests_are_moved_also_after_a_kill_of_everybody(tmp_path: Path, pair: PlayedPair):
    def account(name: str, **settings: object) -> dict[str, str]:
        given = {"base_url": pair.url, "api_key": "k", "per_second": 0, "per_hour": 0, "per_day": 0, **settings}
        return {f"QUOTEBUS_PROVIDERS__{name}__{key}".upper(): str(value) for key, value in given.items()}

    alone = account("tiingo", priority=1)
    pair.faults = {"tiingo": 401}
    async with deployed(tmp_path, ("fetcher",), alone | account("alpha_vantage"), redis=False) as deployment:
        bus = deployment.bus
        # Planned while the second provider rests too, so that the tasks wait with the first.
        pair.faults = {"tiingo": 401, "alpha_vantage": 401}
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["A", "B", "C"]))
        await until(lambda: is_in_state(bus, "tiingo", "stopped"))
        await until(lambda: is_in_state(bus, "alpha_vantage", "stopped"))
        await deployment.services["fetcher"].kill()
        pair.faults = {"tiingo": 401}
        calls = pair.calls["tiingo"]
        await deployment.start("fetcher")
        await until(lambda: all_refreshed(bus, 3))
    # A fetcher that is started tries a refused key again, by as many calls as may be under way at once.
    assert pair.calls["tiingo"] <= calls + 4
