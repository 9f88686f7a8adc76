"""Many symbols in one call, against a real NATS and a provider over HTTP."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from contracts import subjects
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunResult
from contracts.symbol_health import SymbolHealth
from services.runtime.bus import Bus
from tests.connected.fake_pair import PlayedPair
from tests.connected.fetcher.fetcher_harness import fetching, results, settings_for


@pytest.fixture
async def pair() -> AsyncIterator[PlayedPair]:
    async with PlayedPair().serve() as played:
        yield played


async def quotes(bus: Bus, symbols: list[str]) -> list[RunResult]:
    await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=symbols, dataset="quote"))
    return await results(bus, len(symbols))


async def test_quotes_that_come_together_share_full_calls_and_each_call_is_counted_once(bus: Bus, nats_url: str, pair: PlayedPair):
    names = [f"S{number}" for number in range(150)]
    async with fetching(bus, settings_for(nats_url, tiingo=pair.settings(per_minute=60))):
        told = await quotes(bus, names)
    assert {result.outcome for result in told} == {"refreshed"}
    assert [len(batch) for batch in pair.batches] == [50, 50, 50]
    assert sum(result.calls for result in told) == 3


async def test_symbols_too_long_for_one_address_are_shared_out_over_several(bus: Bus, nats_url: str, pair: PlayedPair):
    names = [f"LONG:{number:03d}{'X' * 56}" for number in range(50)]
    async with fetching(bus, settings_for(nats_url, tiingo=pair.settings(per_second=20))):
        told = await quotes(bus, names)
    assert {result.outcome for result in told} == {"refreshed"}
    assert sorted(ticker for batch in pair.batches for ticker in batch) == names
    assert pair.longest_address < 2048
    assert len(pair.batches) > 1


async def test_bars_of_a_provider_that_batches_only_quotes_are_paced_one_by_one(bus: Bus, nats_url: str, pair: PlayedPair):
    async with fetching(bus, settings_for(nats_url, tiingo=pair.settings(per_minute=300))):
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=[f"S{i}" for i in range(12)]))
        told = await results(bus, 12)
    assert sum(result.calls for result in told) == pair.calls["tiingo"] == 12
    instants = sorted(result.called_at for result in told if result.called_at)
    # The minute's limit alone would let all of them leave at once.
    assert instants[-1] - instants[0] > timedelta(seconds=2)


async def test_a_plan_without_quotes_is_remembered_for_each_symbol_of_the_call(bus: Bus, nats_url: str, pair: PlayedPair):
    pair.faults = {"tiingo": 402}
    async with fetching(bus, settings_for(nats_url, tiingo=pair.settings(per_minute=60))):
        told = await quotes(bus, ["A", "B", "C"])
        for symbol in "ABC":
            raw = await bus.js.get_last_msg(subjects.SYMBOLS, subjects.symbol_health("tiingo", "quote", None, symbol))
            assert decode(raw.data or b"", SymbolHealth).state == "plan_restricted"
    assert {(result.symbol, result.reason) for result in told} == {(symbol, "plan_restricted") for symbol in "ABC"}
    assert len(pair.batches) == 1
