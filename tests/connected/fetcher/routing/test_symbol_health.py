"""Dead symbols against a real NATS and a provider over HTTP: a probe now and then, one event a change, whoever is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts import subjects
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from contracts.symbol_health import SymbolHealth
from services.runtime.bus import Bus, connect
from services.runtime.settings import FetcherSettings, ProviderSettings, Settings
from tests.connected.deployment import deployed, until
from tests.connected.fake_pair import PlayedPair
from tests.connected.fake_yahoo import PlayedYahoo
from tests.connected.fetcher.fetcher_harness import fetching, run, settings_for

GONE = subjects.symbol_health("yahoo", "bars", "1d", "GONE")


@pytest.fixture
async def yahoo() -> AsyncIterator[PlayedYahoo]:
    async with PlayedYahoo(dead=frozenset({"GONE"})).serve() as played:
        yield played


def probing(nats_url: str, yahoo: PlayedYahoo, *probe_after_s: float, **other: Any) -> Settings:
    """Settings with these probe intervals."""
    settings = settings_for(nats_url, yahoo=ProviderSettings(base_url=yahoo.url, per_second=0))
    terms = FetcherSettings(ack_wait_s=5, probe_after_s=list(probe_after_s), **other)
    return msgspec.structs.replace(settings, fetcher=terms)


@asynccontextmanager
async def listening(bus: Bus) -> AsyncIterator[list[SymbolHealth]]:
    """What is told of symbols while the block runs."""
    told: list[SymbolHealth] = []

    async def note(msg: Any) -> None:
        told.append(decode(msg.data, SymbolHealth))

    subscription = await bus.nc.subscribe(subjects.ALL_SYMBOL_HEALTH, cb=note)
    yield told
    await bus.nc.flush()
    await asyncio.sleep(0.05)
    await subscription.unsubscribe()


async def health(bus: Bus, subject: str = GONE) -> SymbolHealth:
    raw = await bus.js.get_last_msg(subjects.SYMBOLS, subject)
    return decode(raw.data or b"", SymbolHealth)


async def due(bus: Bus) -> None:
    """Make the probe of GONE due, as if its interval were over."""
    known = await health(bus)
    await bus.publish(GONE, msgspec.structs.replace(known, next_probe_at=known.at))


async def test_a_dead_symbol_costs_one_call_and_one_event_in_ten_runs(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, probing(nats_url, yahoo, 3600)), listening(bus) as told:
        runs = [await run(bus, "AAPL", "GONE") for _ in range(10)]
    outcomes = [{r.symbol: (r.outcome, r.reason) for r in results} for results in runs]
    assert outcomes[0] == {"AAPL": ("refreshed", None), "GONE": ("failed", "not_found")}
    assert outcomes[1:] == [{"AAPL": ("refreshed", None), "GONE": ("skipped", "not_found")}] * 9
    assert (yahoo.asked["GONE"], yahoo.asked["AAPL"]) == (1, 10)
    assert [(h.state, h.before, h.failures) for h in told] == [("suspect", "active", 1)]
    [skipped] = [r for r in runs[5] if r.symbol == "GONE"]
    assert skipped.provider == "yahoo"
    assert "next probe at 20" in (skipped.message or "")
    assert skipped.calls == 0


async def test_a_probe_that_is_due_is_one_call_and_one_that_fails_waits_longer(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, probing(nats_url, yahoo, 3600, 7200, dead_after=2)), listening(bus) as told:
        await run(bus, "GONE")
        await due(bus)
        probed = await run(bus, "GONE")
        skipped = await run(bus, "GONE")
    assert (probed[0].outcome, skipped[0].outcome) == ("failed", "skipped")
    assert yahoo.asked["GONE"] == 2
    first, _, second = told
    assert (first.state, second.state, second.failures) == ("suspect", "unknown", 2)
    assert first.next_probe_at is not None
    assert second.next_probe_at is not None
    assert second.next_probe_at - second.at > first.next_probe_at - first.at


async def test_a_symbol_that_had_prices_is_called_delisted(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    yahoo.dead = frozenset()
    async with fetching(bus, probing(nats_url, yahoo, 3600, dead_after=1)):
        await run(bus, "GONE")
        yahoo.dead = frozenset({"GONE"})
        await run(bus, "GONE")
        known = await health(bus)
    assert (known.state, known.before) == ("delisted", "active")


async def test_a_symbol_comes_back_by_itself_when_a_probe_finds_it(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, probing(nats_url, yahoo, 3600)):
        await run(bus, "GONE")
        yahoo.dead = frozenset()
        assert [r.outcome for r in await run(bus, "GONE")] == ["skipped"]
        await due(bus)
        assert [r.outcome for r in await run(bus, "GONE")] == ["refreshed"]
        known = await health(bus)
        assert [r.outcome for r in await run(bus, "GONE")] == ["refreshed"]
    assert (known.state, known.before, known.next_probe_at) == ("active", "suspect", None)


async def test_a_request_by_hand_always_tries_and_does_not_move_the_next_probe(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, probing(nats_url, yahoo, 3600)), listening(bus) as told:
        await run(bus, "GONE")
        assert [r.outcome for r in await run(bus, "GONE", lane="manual")] == ["failed"]
        assert len(told) == 1
        yahoo.dead = frozenset()
        assert [r.outcome for r in await run(bus, "GONE", lane="manual")] == ["refreshed"]
    assert yahoo.asked["GONE"] == 3
    assert [h.state for h in told] == ["suspect", "active"]


async def test_two_fetchers_count_one_failure_and_know_what_the_other_found_out(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    names = [f"S{i}" for i in range(20)]
    yahoo.dead = frozenset(names)
    settings = probing(nats_url, yahoo, 3600)
    async with (
        connect(settings.nats, "other") as other,
        fetching(bus, settings),
        fetching(other, settings),
        listening(bus) as told,
    ):
        for _ in range(4):
            await run(bus, *names, lane="live")
    assert sorted(h.symbol for h in told) == sorted(names)
    assert all(count == 1 for count in yahoo.asked.values())


async def test_what_the_plan_does_not_include_is_remembered_for_its_dataset_and_timeframe(bus: Bus, nats_url: str):
    pair = PlayedPair(paid={("tiingo", "GOLD")})
    async with pair.serve(), fetching(bus, settings_for(nats_url, tiingo=pair.settings())):
        runs = [await run(bus, "GOLD", "AAPL") for _ in range(3)]
        known = await health(bus, subjects.symbol_health("tiingo", "bars", "1d", "GOLD"))
        assert pair.asked["tiingo", "GOLD"] == 1
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["GOLD"], timeframe="1wk"))
        await until(lambda: asked(pair, "tiingo", "GOLD", 2))
    assert [r.reason for results in runs for r in results if r.symbol == "GOLD"] == ["plan_restricted"] * 3
    assert (known.state, known.verdict, known.failures) == ("plan_restricted", "plan_restricted", 1)


async def asked(pair: PlayedPair, vendor: str, symbol: str, times: int) -> bool:
    return pair.asked[vendor, symbol] == times


async def test_a_message_of_symbol_health_that_cannot_be_read_stops_nobody(bus: Bus, nats_url: str, yahoo: PlayedYahoo):
    async with fetching(bus, probing(nats_url, yahoo, 3600)):
        await bus.js.publish(GONE, b"no json")
        assert [r.outcome for r in await run(bus, "GONE")] == ["failed"]
        assert [r.outcome for r in await run(bus, "GONE")] == ["skipped"]
        assert (await health(bus)).state == "suspect"


async def test_whoever_is_killed_a_dead_symbol_stays_known_and_readers_see_it(tmp_path: Path, yahoo: PlayedYahoo):
    environment = {
        "QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": yahoo.url,
        "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0",
        "QUOTEBUS_FETCHER__DEAD_AFTER": "1",
    }
    query = "SELECT state, verdict, failures FROM symbol_health WHERE symbol = 'GONE' AND provider = 'yahoo' AND timeframe = '1d'"
    async with deployed(tmp_path, ("cacher",), environment, redis=False) as deployment:
        await deployment.postgres.kill()
        await asyncio.gather(deployment.start("one", "fetcher"), deployment.start("two", "fetcher"))
        assert {r.outcome for r in await run(deployment.bus, "GONE", "AAPL")} == {"failed", "refreshed"}
        assert {r.outcome for r in await run(deployment.bus, "GONE", "AAPL")} == {"skipped", "refreshed"}
        for victim in (deployment.services["one"], deployment.services["two"], deployment.nats):
            await victim.kill()
        for part in (deployment.nats, deployment.services["one"], deployment.services["two"]):
            await part.start()
        assert {r.outcome for r in await run(deployment.bus, "GONE", "MSFT")} == {"skipped", "refreshed"}
        await deployment.postgres.start()

        async def shown() -> bool:
            return [tuple(row) for row in await deployment.rows(query)] == [("unknown", "not_found", 1)]

        await until(shown)
    assert yahoo.asked["GONE"] == 1


async def test_a_symbol_that_a_person_resets_is_asked_for_by_the_next_run_and_may_be_doubted_again(
    bus: Bus, nats_url: str, yahoo: PlayedYahoo
):
    async with fetching(bus, probing(nats_url, yahoo, 3600)):
        await run(bus, "GONE")
        known = await health(bus)
        reset = msgspec.structs.replace(known, state="active", before=known.state, failures=0, next_probe_at=None, by="person")
        await bus.publish(GONE, reset)
        assert [r.outcome for r in await run(bus, "GONE")] == ["failed"]
        assert [r.outcome for r in await run(bus, "GONE")] == ["skipped"]
        assert (await health(bus)).failures == 1
    assert yahoo.asked["GONE"] == 2
