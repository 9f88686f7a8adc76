"""While a provider's circuit is open its waiting tasks stay where they are, and no consumer has to be paused for that."""

from collections.abc import AsyncIterator, Mapping

import pytest
from nats.js.errors import KeyNotFoundError
from pydantic import SecretStr

from contracts import subjects
from contracts.message import LANES, Lane
from contracts.refresh_request import RefreshRequest
from services.runtime.bus import Bus, connect
from services.runtime.settings import ProviderSettings
from tests.connected.deployment import until
from tests.connected.fake_tiingo import PlayedTiingo
from tests.connected.fetcher.fetcher_harness import fetching, settings_for

REPLICAS = 2
TASKS_A_LANE = 30


@pytest.fixture
async def tiingo() -> AsyncIterator[PlayedTiingo]:
    async with PlayedTiingo().serve() as played:
        yield played


async def deliveries(bus: Bus) -> Mapping[Lane, int]:
    """How often a task of each lane was delivered, whichever it was."""
    names = {lane: subjects.lane_consumer("tiingo", lane) for lane in LANES}
    return {lane: (await bus.js.consumer_info(subjects.TASKS, name)).delivered.consumer_seq for lane, name in names.items()}


async def open_pulls(bus: Bus) -> int:
    infos = [await bus.js.consumer_info(subjects.TASKS, subjects.lane_consumer("tiingo", lane)) for lane in LANES]
    return sum(info.num_waiting or 0 for info in infos)


async def ask(bus: Bus, prefix: str) -> None:
    """Ask for symbols in each lane; return when their tasks are there."""
    before = (await bus.js.stream_info(subjects.TASKS)).state.messages
    for lane in LANES:
        symbols = [f"{prefix}{lane[0].upper()}{number}" for number in range(TASKS_A_LANE)]
        await bus.publish(subjects.refresh_request(lane), RefreshRequest(symbols=symbols))

    async def all_there() -> bool:
        return (await bus.js.stream_info(subjects.TASKS)).state.messages == before + len(LANES) * TASKS_A_LANE

    await until(all_there)


async def test_waiting_tasks_are_delivered_once_for_each_pull_that_was_open_and_no_pull_follows(
    bus: Bus, nats_url: str, tiingo: PlayedTiingo
) -> None:
    tiingo.refusals["bad"] = (401, '{"detail":"Invalid token."}')
    settings = settings_for(nats_url, tiingo=ProviderSettings(base_url=tiingo.url, api_key=SecretStr("bad"), per_hour=0, per_day=0))
    async with connect(settings.nats, "other") as other, fetching(bus, settings), fetching(other, settings):
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["REFUSED"]))
        key = subjects.key_state("tiingo", "k1")

        async def stopped() -> bool:
            try:
                state = await (await bus.js.key_value(subjects.STATE_BUCKET)).get(key)
            except KeyNotFoundError:
                return False
            return b"stopped" in (state.value or b"")

        async def no_pulls() -> bool:
            return not await open_pulls(bus)

        await until(stopped)
        before = await deliveries(bus)
        await ask(bus, "A")
        await until(no_pulls)
        after = await deliveries(bus)
        # The task that was refused goes back once; each replica had one pull open in a lane, for one task.
        assert all(after[lane] - before[lane] <= REPLICAS + 1 for lane in LANES), (before, after)
        await ask(bus, "B")
        assert await no_pulls()
        assert await deliveries(bus) == after
    assert tiingo.calls["bad"] <= REPLICAS
