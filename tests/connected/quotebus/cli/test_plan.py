"""`quotebus plan`, what `quotebus jobs` says of costs, and the same over the bus."""

import os
from typing import Any

import pytest

from contracts import subjects
from contracts.job import Job
from contracts.message import decode, encode
from contracts.plan_ask import CostPlan, PlanAsk
from quotebus.client import Client
from services.fetcher.on_plan_ask import PlanAskHandler
from services.runtime.bus import Bus
from services.runtime.settings import NatsSettings, PostgresSettings, ProviderSettings, Settings


@pytest.fixture
async def tiingo(servers: None, quotebus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__API_KEY", "k")
    assert (await quotebus("migrate")).code == 0


async def test_a_job_says_what_it_costs_when_it_is_made_and_warns_when_the_limit_has_no_room(tiingo: None, quotebus: Any) -> None:
    made = await quotebus("jobs", "add", "eod", "A", "B", "--at", "22:15", "--timeframe", "1d", "--provider", "tiingo")
    assert made.code == 0
    assert made.err == "eod: 1 runs and 2 calls of tiingo on its fullest day, for 2 symbols\n"
    edited = await quotebus("jobs", "edit", "eod", "--every", "60s")
    assert edited.code == 0
    assert "warning: all enabled jobs together want 120 in the window hour, which allows 50: fewer runs or symbols" in edited.err
    shown = await quotebus("plan", "-o", "ndjson")
    assert shown.code == 1
    found = {(row["kind"], row["job"] or row["window"]): row for row in shown.rows}
    assert found["job", "eod"]["calls"] == 2880
    assert (found["limit", "hour"]["wanted"], found["limit", "hour"]["fits"]) == (120, False)
    same = await quotebus("jobs", "add", "same", "B", "C", "--at", "09:00", "--timeframe", "1d", "--provider", "tiingo")
    assert "same: 1 runs and 1 calls of tiingo on its fullest day, for 2 symbols; another 1 are made by jobs that want" in same.err
    assert (await quotebus("jobs", "rm", "same")).code == 0
    assert (await quotebus("jobs", "pause", "eod", "--reason", "too dear")).code == 0
    assert (await quotebus("plan")).code == 0


async def test_an_unknown_universe_is_refused_at_the_door_and_one_that_cannot_be_read_is_told(tiingo: None, quotebus: Any) -> None:
    refused = await quotebus("jobs", "add", "a", "--universe", "activ", "--every", "1h")
    assert (refused.code, "did you mean active?" in refused.err) == (2, True)
    made = await quotebus("jobs", "add", "a", "--universe", "active", "--every", "1h", "--timeframe", "1d", "--provider", "tiingo")
    assert made.err == "a: 24 runs and 0 calls of tiingo on its fullest day, for 0 symbols\n"


async def test_the_same_is_answered_over_the_bus_with_a_job_that_is_not_there_yet(tiingo: None, qb: Client) -> None:
    settings = Settings(
        nats=NatsSettings(url=os.environ["QUOTEBUS_NATS__URL"]),
        postgres=PostgresSettings(dsn=os.environ["QUOTEBUS_POSTGRES__DSN"]),  # type: ignore[arg-type]
        providers={"tiingo": ProviderSettings(api_key="k")},  # type: ignore[arg-type]
    )
    desk = PlanAskHandler(settings)
    assert (await desk.on_plan_ask(b"")).error
    desk.open(Bus(qb.nc, qb.js))
    draft = Job(id="new", symbols=["A"], every_s=3600, timeframe="1d")
    answer = decode(encode(await desk.on_plan_ask(encode(PlanAsk(job=draft)))), CostPlan)
    assert ([cost.calls for cost in answer.jobs], answer.fits, answer.error) == ([24], True, None)
    assert (await desk.on_plan_ask(b'{"job":{"id":"x"}}')).error
    assert subjects.PLAN_ASK == "plan.ask"
