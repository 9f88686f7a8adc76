"""Tasks that want the same: each planned symbol has one outcome, whatever lanes it comes by and whoever is stopped or killed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunResult
from tests.connected.deployment import Deployment, deployed, until
from tests.connected.fake_yahoo import PlayedYahoo


@pytest.fixture
async def yahoo() -> AsyncIterator[PlayedYahoo]:
    async with PlayedYahoo().serve() as played:
        yield played


def environment(yahoo: PlayedYahoo) -> dict[str, str]:
    return {"QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": yahoo.url, "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0"}


async def results(deployment: Deployment) -> list[RunResult]:
    state = (await deployment.bus.js.stream_info(subjects.RUNS)).state
    raws = [await deployment.bus.js.get_msg(subjects.RUNS, n) for n in range(1, state.last_seq + 1)]
    return [decode(raw.data or b"", RunResult) for raw in raws if (raw.subject or "").startswith("run.result")]


async def waiting(deployment: Deployment) -> int:
    return (await deployment.bus.js.stream_info(subjects.WAITING)).state.messages


async def ask(deployment: Deployment, times: int, symbols: list[str]) -> None:
    for number in range(times):
        await deployment.bus.publish(subjects.refresh_request(LANES[number % 3]), RefreshRequest(symbols=symbols))


async def all_over(deployment: Deployment, runs: int) -> bool:
    rows = await deployment.rows("SELECT counts FROM run_history WHERE finished_at IS NOT NULL")
    return len(rows) == runs


async def are_waiting(deployment: Deployment, at_least: int) -> bool:
    return await waiting(deployment) >= at_least


def each_once(told: list[RunResult], runs: int, symbols: list[str]) -> None:
    """Every symbol of every run was told of, once."""
    assert Counter((result.run_id, result.symbol) for result in told) == Counter(
        (str(run), symbol) for run in range(1, runs + 1) for symbol in symbols
    )
    assert {result.outcome for result in told} <= {"refreshed", "merged"}
    assert all(result.called_at and result.called_at >= result.wanted_at for result in told)


async def test_every_symbol_of_every_run_of_mixed_lanes_has_one_outcome(tmp_path: Path, yahoo: PlayedYahoo) -> None:
    yahoo.delay_s, symbols = 0.3, ["AAPL", "MSFT", "IBM"]
    async with deployed(tmp_path, ("fetcher", "cacher"), environment(yahoo), redis=False) as deployment:
        await ask(deployment, 15, symbols)
        await until(lambda: all_over(deployment, 15))
        told = await results(deployment)
        assert not await waiting(deployment)
    each_once(told, 15, symbols)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_fetcher_that_ends_while_tasks_are_coalesced_loses_none(tmp_path: Path, yahoo: PlayedYahoo, how: str) -> None:
    yahoo.delay_s = 1.0
    async with deployed(tmp_path, ("fetcher", "cacher"), environment(yahoo), redis=False) as deployment:
        await ask(deployment, 15, ["AAPL"])
        await until(lambda: are_waiting(deployment, 3))
        fetcher = deployment.services["fetcher"]
        await (fetcher.stop(8) if how == "stop" else fetcher.kill())
        assert await waiting(deployment)
        yahoo.delay_s = 0.0
        await deployment.start("fetcher")
        await until(lambda: all_over(deployment, 15))
        told = await results(deployment)
    each_once(told, 15, ["AAPL"])


async def test_a_coalesced_task_is_let_go_at_its_deadline_and_its_run_expires(tmp_path: Path, yahoo: PlayedYahoo) -> None:
    now = datetime.now(UTC)
    yahoo.delay_s = 60
    async with deployed(tmp_path, ("fetcher", "cacher"), environment(yahoo), redis=False) as deployment:
        for _ in range(4):
            request = RefreshRequest(symbols=["AAPL"], expires_at=now + timedelta(seconds=6))
            await deployment.bus.publish(subjects.refresh_request("live"), request)
        await until(lambda: all_over(deployment, 4))
        await until(lambda: _none_waits(deployment))
        rows = await deployment.rows("SELECT outcome, reason FROM run_results")
        assert not (await deployment.bus.js.stream_info(subjects.DEAD)).state.messages
    assert {(row["outcome"], row["reason"]) for row in rows} == {("expired", "deadline")}


async def test_a_coalesced_task_whose_provider_is_gone_is_served_by_another(tmp_path: Path, yahoo: PlayedYahoo) -> None:
    now = datetime.now(UTC)
    task = FetchTask(
        provider="tiingo", lane="live", symbol="AAPL", dataset="bars", timeframe="1d", wanted_at=now,
        expires_at=now + timedelta(hours=1), request_id="r", run_id="1",
    )  # fmt: skip
    async with deployed(tmp_path, ("fetcher",), environment(yahoo), redis=False) as deployment:
        await deployment.bus.publish(subjects.waiting_task(task), task)
        async with asyncio.timeout(60):
            while not (told := await results(deployment)):
                await asyncio.sleep(0.1)
    assert [(result.provider, result.outcome) for result in told] == [("yahoo", "refreshed")]


async def _none_waits(deployment: Deployment) -> bool:
    return not await waiting(deployment)
