"""A provider that was left alone is called again as soon as the reason is gone; nobody resumes anything by hand."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import time_machine
from nats.js.errors import KeyNotFoundError

from contracts import subjects
from contracts.message import LANES, Lane, decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunResult
from services.runtime.bus import Bus, connect
from services.runtime.settings import FetcherSettings, ProviderSettings, Secret, Settings
from tests.connected.deployment import until
from tests.connected.fake_tiingo import PlayedTiingo
from tests.connected.fetcher.fetcher_harness import fetching, results, settings_for, stored

WAITING: Mapping[Lane, str] = {"manual": "M", "live": "L", "backfill": "B"}


@pytest.fixture
async def tiingo() -> AsyncIterator[PlayedTiingo]:
    async with PlayedTiingo().serve() as played:
        yield played


@asynccontextmanager
async def fetcher(nats_url: str, tiingo: PlayedTiingo, **account: Any) -> AsyncIterator[None]:
    """A fetcher with a connection of its own, and these settings of its one provider."""
    settings = _settings(nats_url, tiingo, **account)
    async with connect(settings.nats, "fetcher") as bus, fetching(bus, settings):
        yield


def _settings(nats_url: str, tiingo: PlayedTiingo, key: str = "good", **account: Any) -> Settings:
    # Where it is noon: within half a minute of a reset no call is made.
    noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
    no_limit = {"per_hour": 0, "per_day": 0, "kept_for_manual": 0, "kept_for_live": 0, "day_zone": noon}
    provider = ProviderSettings(base_url=tiingo.url, api_key=Secret(key), **{**no_limit, **account})
    terms = FetcherSettings(ack_wait_s=5, expires_after_s=3 * 86400)
    return msgspec.structs.replace(settings_for(nats_url, tiingo=provider), fetcher=terms)


async def key_state(bus: Bus) -> dict[str, Any]:
    """The stored state of the key; nothing if there is none."""
    try:
        entry = await (await bus.js.key_value(subjects.STATE_BUCKET)).get(subjects.key_state("tiingo", "k1"))
    except KeyNotFoundError:
        return {}
    return msgspec.json.decode(entry.value or b"{}", type=dict[str, Any])


async def until_blocked(bus: Bus, state: str) -> None:
    async def blocked() -> bool:
        return (await key_state(bus)).get("state") == state

    await until(blocked)


async def ask_in_every_lane(bus: Bus) -> None:
    """Ask for a symbol in each lane; return when all of them wait."""
    for lane, symbol in WAITING.items():
        await bus.publish(subjects.refresh_request(lane), RefreshRequest(symbols=[symbol]))

    async def all_wait() -> bool:
        state = (await bus.js.stream_info(subjects.TASKS, subjects_filter="task.tiingo.>")).state
        waiting = {subject.split(".")[2] for subject in state.subjects or {} if subject.split(".")[-1] in WAITING.values()}
        return waiting == set(LANES)

    await until(all_wait)


async def served(bus: Bus) -> dict[str, str]:
    """The outcome of each symbol that waited, as soon as all are told."""
    clock = asyncio.get_running_loop().time
    deadline, told = clock() + 30, dict[str, str]()
    # A cancellation may be swallowed by the client's own waiting, so the loop itself ends.
    while len(told) < len(WAITING) and clock() < deadline:
        await asyncio.sleep(0.05)
        found = [decode(body, RunResult) for body in await stored(bus, subjects.RUNS, "run.result")]
        told = {result.symbol: result.outcome for result in found if result.symbol in WAITING.values()}
    return told


ALL_REFRESHED = dict.fromkeys(WAITING.values(), "refreshed")


async def test_after_a_refused_key_is_corrected_and_the_fetcher_restarted_every_lane_is_served(
    bus: Bus, nats_url: str, tiingo: PlayedTiingo
) -> None:
    tiingo.refusals["bad"] = (401, '{"detail":"Invalid token."}')
    async with fetcher(nats_url, tiingo, key="bad"):
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["REFUSED"]))
        await until_blocked(bus, "stopped")
        await ask_in_every_lane(bus)
    async with fetcher(nats_url, tiingo, key="good"):
        assert await served(bus) == ALL_REFRESHED
    assert (await key_state(bus)).get("state", "ok") == "ok"


async def test_after_a_limit_is_raised_provisioned_and_the_fetcher_restarted_every_lane_is_served(
    bus: Bus, nats_url: str, tiingo: PlayedTiingo
) -> None:
    async with fetcher(nats_url, tiingo, per_day=2):
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["ONE", "TWO", "TOO_MANY"]))
        await until_blocked(bus, "quota_spent")
        await ask_in_every_lane(bus)
    # Starting it provisions the streams of the new limit first, as `quotebus migrate` does.
    async with fetcher(nats_url, tiingo, per_day=100):
        assert await served(bus) == ALL_REFRESHED


async def test_when_a_spent_day_is_over_every_lane_is_served(bus: Bus, nats_url: str, tiingo: PlayedTiingo) -> None:
    async with fetcher(nats_url, tiingo, per_day=5):
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["ONE", "TWO", "THREE", "FOUR", "FIVE"]))
        await results(bus, 5)
        await bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["TOO_MANY"]))
        await until_blocked(bus, "quota_spent")
        await ask_in_every_lane(bus)
        assert tiingo.calls["good"] == 5
        reset = datetime.fromisoformat((await key_state(bus))["until"])
        # The clock by which days are counted moves on; the one by which the event loop waits does not.
        with time_machine.travel(reset + timedelta(seconds=1), tick=True):
            assert await served(bus) == ALL_REFRESHED


async def test_consumers_that_an_earlier_version_left_paused_are_resumed_at_start(
    bus: Bus, nats_url: str, tiingo: PlayedTiingo
) -> None:
    async with fetcher(nats_url, tiingo):
        pass
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")
    for lane in LANES:
        await bus.js.pause_consumer(subjects.TASKS, subjects.lane_consumer("tiingo", lane), tomorrow)
    async with fetcher(nats_url, tiingo):
        for lane, symbol in WAITING.items():
            await bus.publish(subjects.refresh_request(lane), RefreshRequest(symbols=[symbol]))
        assert await served(bus) == ALL_REFRESHED
