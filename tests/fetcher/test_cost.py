"""What jobs cost: numbers worked out by hand."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from contracts.cost_plan import CostPlan, JobCost, LimitUse
from contracts.job import Job
from contracts.trading_sessions import TradingSessions
from services.fetcher.accounts import account_of
from services.fetcher.cost import cost_plan
from services.runtime.sessions import Calendar
from services.runtime.settings import ProviderSettings

MONDAY = datetime(2026, 1, 5, 15, tzinfo=UTC)
NAMES = [f"S{n}" for n in range(40)]


def planned(*jobs: Job, symbols: Any = NAMES, provider: str = "tiingo", calendars: Any = None, **settings: Any) -> CostPlan:
    account = account_of(provider, ProviderSettings(**{"api_key": "k", **settings}))
    return cost_plan(jobs, {job.id: symbols for job in jobs}, {provider: account}, calendars or {}, MONDAY)


def limit(plan: CostPlan, window: str) -> LimitUse:
    [found] = [each for each in plan.limits if each.window == window]
    return found


def job(name: str = "j", **fields: Any) -> Job:
    return Job(id=name, symbols=["A"], **{"timeframe": "1d", **fields})


def test_a_daily_job_costs_a_call_a_symbol_or_a_call_for_as_many_as_share_one() -> None:
    [cost] = planned(job(at=["22:15"])).jobs
    assert cost == JobCost(job="j", lane="live", dataset="bars", timeframe="1d", provider="tiingo", symbols=40, runs=1, calls=40)
    [quotes] = planned(Job(id="q", symbols=["A"], every_s=3600, dataset="quote")).jobs
    assert (quotes.runs, quotes.calls) == (24, 24)
    [by_credit] = planned(job(at=["22:15"]), provider="twelvedata").jobs
    assert by_credit.calls == 40


def test_windows_count_what_falls_into_the_fullest_of_them_and_only_the_lanes_they_are_for() -> None:
    plan = planned(job("a", at=["22:15"]), job("b", at=["22:30"], lane="backfill", max_symbols=15), per_day=50, per_month=9999)
    assert limit(plan, "hour") == LimitUse(
        provider="tiingo", window="hour", limit=50, wanted=55, fits=False,
        do="fewer runs or symbols, another provider, or a larger plan: providers.tiingo.per_hour",
    )  # fmt: skip
    assert (limit(plan, "day").wanted, limit(plan, "day-live").wanted, limit(plan, "day-backfill").wanted) == (55, 55, 15)
    assert (limit(plan, "day-live").limit, limit(plan, "day-live").fits) == (40, False)
    assert "kept_for_manual" in str(limit(plan, "day-live").do)
    assert limit(plan, "month").wanted == 55 * 30
    assert limit(plan, "symbols").wanted == 40
    assert not plan.fits


def test_days_without_a_session_cost_nothing_and_the_fullest_day_decides() -> None:
    opens = [datetime(2026, 1, day, 14, 30, tzinfo=UTC) for day in (5, 6, 8)]
    known = TradingSessions(
        calendar="XNYS", timezone="America/New_York", first=date(2026, 1, 1), last=date(2026, 2, 1), made_at=MONDAY, source="test",
        day=[each.date() for each in opens], open=opens, close=[each + timedelta(hours=1) for each in opens],
        break_start=[None] * 3, break_end=[None] * 3,
    )  # fmt: skip
    inside = Job(id="j", symbols=["A"], session="every 15m", calendar="XNYS", timeframe="15m")
    plan = planned(inside, symbols=["A"], calendars={"XNYS": Calendar(known)})
    [cost] = plan.jobs
    assert cost.runs == cost.calls
    assert cost.runs is not None
    # Three sessions of the seven days, alike.
    assert limit(planned(inside, symbols=["A"], calendars={"XNYS": Calendar(known)}, per_month=1000), "month").wanted == -(
        -cost.runs * 3 * 30 // 7
    )


def test_a_job_that_follows_another_runs_as_often_as_that_or_as_often_as_it_has_to() -> None:
    first = job("first", at=["09:00", "10:00"])
    then = job("then", after="first", at_least_every_s=1800)
    plan = planned(first, then, symbols=["A"])
    assert [cost.runs for cost in plan.jobs] == [2, 48]
    assert [cost.runs for cost in planned(first, job("then", after="first")).jobs] == [2, 2]
    assert [cost.runs for cost in planned(job("then", after="gone", at_least_every_s=7200)).jobs] == [12]


def test_what_is_not_known_says_why_and_the_rest_is_counted() -> None:
    assert planned(job(at=["09:00"]), symbols="universe x is not defined").jobs[0].problem == "universe x is not defined"
    [chain] = planned(Job(id="c", symbols=["A"], every_s=60, dataset="chain")).jobs
    assert chain.calls is None
    assert "no enabled provider has chain" in str(chain.problem)
    [gone] = planned(job(at=["09:00"], provider="tingo")).jobs
    assert "did you mean tiingo?" in str(gone.problem)


def test_a_job_whose_sessions_nobody_knows_says_what_to_do() -> None:
    [cost] = planned(Job(id="j", symbols=["A"], session="open+5m", calendar="XLON", timeframe="1d")).jobs
    assert cost.problem == "the sessions of XLON are not known yet: run `quotebus migrate`"
