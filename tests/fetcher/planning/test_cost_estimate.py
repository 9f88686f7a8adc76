"""What jobs cost: numbers worked out by hand."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.job import Job
from contracts.plan_ask import CostPlan, JobCost, LimitUse
from contracts.trading_sessions import TradingSessions
from services.fetcher.accounts import account_of, accounts
from services.fetcher.planning.cost_estimate import cost_estimate
from services.runtime.schedules.sessions import Calendar
from services.runtime.settings import ProviderSettings, Settings

MONDAY = datetime(2026, 1, 5, 15, tzinfo=UTC)
NAMES = [f"S{n}" for n in range(40)]


def planned(*jobs: Job, symbols: Any = NAMES, provider: str = "tiingo", calendars: Any = None, **terms: Any) -> CostPlan:
    account = account_of(provider, ProviderSettings(**{"api_key": "k", **terms}))
    return cost_estimate(jobs, {job.id: symbols for job in jobs}, {provider: account}, calendars or {}, MONDAY)


def limit(plan: CostPlan, window: str) -> LimitUse:
    [found] = [each for each in plan.limits if each.window == window]
    return found


def job(name: str = "j", **fields: Any) -> Job:
    return Job(id=name, symbols=["A"], **{"timeframe": "1d", **fields})


def test_a_daily_job_costs_a_call_a_symbol_or_a_call_for_as_many_as_share_one() -> None:
    [cost] = planned(job(at=["22:15"])).jobs
    assert cost == JobCost(
        job="j", lane="live", dataset="bars", timeframe="1d", provider="tiingo", symbols=40, runs=1, calls=40, merged=0
    )
    [quotes] = planned(Job(id="q", symbols=["A"], every_s=3600, dataset="quote")).jobs
    assert (quotes.runs, quotes.calls) == (24, 24)
    [by_credit] = planned(job(at=["22:15"]), provider="twelvedata").jobs
    assert by_credit.calls == 40


def test_what_is_derived_costs_no_call() -> None:
    [cost] = cost_estimate(
        [Job(id="iv", symbols=["A"], every_s=60, dataset="iv")], {"iv": NAMES}, accounts(Settings()), {}, MONDAY
    ).jobs
    assert (cost.provider, cost.symbols, cost.runs, cost.calls) == ("derived", 40, 1440, 0)


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


def test_jobs_that_want_the_same_at_the_same_time_share_their_calls_and_the_rarer_one_has_them_for_nothing() -> None:
    often = job("often", every_s=3600, max_symbols=30)
    rarely = job("rarely", at=["09:00", "09:30"])
    plan = planned(often, rarely, per_day=2000)
    assert [(cost.calls, cost.merged) for cost in plan.jobs] == [(24 * 30, 0), (10 + 40, 30)]
    assert limit(plan, "day").wanted == 24 * 30 + 10 + 40
    # Not the same: another series, a range, whenever another one is over.
    for other in (job("o", every_s=3600, timeframe="1wk"), job("o", every_s=3600, lookback_days=30), job("o", after="often")):
        assert [cost.merged for cost in planned(often, other).jobs] == [0, 0]


def test_calls_of_several_symbols_are_shared_only_where_a_whole_call_falls_away() -> None:
    quotes = {"dataset": "quote", "timeframe": None, "at": ["09:00"]}
    symbols = {"a": NAMES[:30], "b": NAMES[5:35]}
    account = account_of("alpaca", ProviderSettings(api_key="k", api_secret="s", symbols_per_call=10))  # type: ignore[arg-type]
    plan = cost_estimate([job("a", **quotes), job("b", **quotes)], symbols, {"alpaca": account}, {}, MONDAY)
    assert [(cost.calls, cost.merged) for cost in plan.jobs] == [(3, 0), (1, 2)]


def test_a_job_of_more_slots_than_can_be_looked_at_counts_as_if_alone() -> None:
    plan = planned(job("a", every_s=10), job("b", every_s=10))
    assert [cost.merged for cost in plan.jobs] == [0, 0]


wishes = st.lists(
    st.tuples(st.sampled_from([600, 900, 1800, 2400, 3600, 7200]), st.integers(0, 2**6 - 1).map(lambda bits: bits or 1)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(wishes)
def test_what_jobs_cost_together_is_a_call_for_each_symbol_at_each_instant_at_which_anybody_wants_it(
    wanted: list[tuple[int, int]],
) -> None:
    jobs = [job(f"j{n}", every_s=every_s) for n, (every_s, _) in enumerate(wanted)]
    symbols = {f"j{n}": [name for n_, name in enumerate(NAMES[:6]) if bits >> n_ & 1] for n, (_, bits) in enumerate(wanted)}
    account = account_of("tiingo", ProviderSettings(api_key="k", per_day=10**6))  # type: ignore[arg-type]
    plan = cost_estimate(jobs, symbols, {"tiingo": account}, {}, MONDAY)
    asked = {
        (second, symbol)
        for n, (every_s, _) in enumerate(wanted)
        for second in range(0, 86400, every_s)
        for symbol in symbols[f"j{n}"]
    }
    assert limit(plan, "day").wanted == len(asked) == sum(cost.calls or 0 for cost in plan.jobs)
    alone = [sum(1 for _ in range(0, 86400, every_s)) * len(symbols[f"j{n}"]) for n, (every_s, _) in enumerate(wanted)]
    assert [(cost.calls or 0) + (cost.merged or 0) for cost in plan.jobs] == alone
