"""A job from its making over HTTP to its end: it fires, a killed clock makes up for it once, its runs tell all, a stop holds."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts import subjects
from contracts.message import encode
from contracts.trading_sessions import TradingSessions
from tests.connected.deployment import Deployment, until
from tests.connected.gateway.gateway_harness import Http, with_gateways

EVERY_S = 3
JOB = {"id": "beat", "symbols": ["AAPL", "MSFT"], "every_s": EVERY_S, "dataset": "quote", "expires_after_s": 30}


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Http]]:
    services = ("scheduler", "fetcher", "cacher")
    async with with_gateways(tmp_path_factory.mktemp("jobs"), services) as (deployment, [http]):
        await until(lambda: _is_ready(http))
        yield deployment, http


async def _is_ready(http: Http) -> bool:
    return (await http.get("/readyz")).status == 200


async def runs_of(http: Http, job: str) -> list[dict[str, Any]]:
    """The runs of a job that are over, the newest first."""
    found: list[dict[str, Any]] = (await http.get(f"/runs?job={job}")).json["runs"]
    return [run for run in found if run["finished_at"]]


async def test_a_job_fires_is_made_up_for_once_tells_all_and_stops(running: tuple[Deployment, Http]) -> None:
    deployment, http = running
    assert (await http.post("/scheduler/jobs", JOB)).status == 201

    async def has_run() -> bool:
        return bool(await runs_of(http, "beat"))

    await until(has_run)
    await deployment.services["scheduler"].kill()
    before = {run["run_id"] for run in await runs_of(http, "beat")}
    await asyncio.sleep(3 * EVERY_S)
    await deployment.start("scheduler")

    async def has_made_up() -> bool:
        return any(run["missed_slots"] for run in await runs_of(http, "beat"))

    await until(has_made_up)
    stopped = await http.post("/scheduler/jobs/beat/stop")
    assert (stopped.status, stopped.json["enabled"]) == (200, False)
    await asyncio.sleep(1)
    last = (await deployment.bus.js.stream_info(subjects.REFRESH)).state.last_seq
    new = [run for run in await runs_of(http, "beat") if run["run_id"] not in before]
    late = [run for run in new if run["missed_slots"]]
    assert len(late) == 1
    assert late[0]["missed_slots"] >= 2
    assert len({run["slot_at"] for run in new}) == len(new)
    await asyncio.sleep(2 * EVERY_S)
    assert (await deployment.bus.js.stream_info(subjects.REFRESH)).state.last_seq == last
    page = (await http.get(f"/runs/{late[0]['run_id']}")).json
    assert (page["run"]["outcomes"], page["run"]["reasons"]) == ({"refreshed": 2}, {})
    assert {symbol["symbol"]: symbol["outcome"] for symbol in page["symbols"]} == {"AAPL": "refreshed", "MSFT": "refreshed"}
    missed = (await http.get("/runs?job=beat")).json["missed"]
    assert {slot["reason"] for slot in missed} == {"caught_up"}


async def test_on_a_holiday_a_job_with_a_calendar_asks_for_nothing(running: tuple[Deployment, Http]) -> None:
    deployment, http = running
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    known = TradingSessions(
        calendar="XNYS", timezone="UTC", first=(today - timedelta(days=9)).date(), last=(today + timedelta(days=9)).date(),
        day=[(today - timedelta(days=1)).date()], open=[today - timedelta(hours=10)], close=[today - timedelta(hours=4)],
        break_start=[None], break_end=[None], source="test", made_at=today,
    )  # fmt: skip
    await (await deployment.bus.js.key_value(subjects.SESSIONS_BUCKET)).put("XNYS", encode(known))
    made = await http.post("/scheduler/jobs", {**JOB, "id": "closed", "calendar": "XNYS"})
    assert made.status == 201
    await asyncio.sleep(2 * EVERY_S)
    assert not (await http.get("/runs?job=closed")).json["runs"]
