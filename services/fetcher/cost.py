"""What jobs cost: the calls they will make, against what each provider allows. Pure: it asks nobody and reads no clock."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

from contracts.cost_plan import CostPlan, JobCost, LimitUse
from contracts.fetch_task import FetchTask
from contracts.job import Job
from services.fetcher.accounts import Account
from services.fetcher.choose_provider import NoProviderError, candidates
from services.runtime.quota_windows import SYMBOLS, QuotaWindow
from services.runtime.schedules import schedule_of
from services.runtime.sessions import Calendars
from services.runtime.slots import Never

DAYS = 7
_HOURS = DAYS * 24
_HOUR_S = 3600.0
_DAYS_A_MONTH = 30
# The symbols of each job, or why nobody knows them.
SymbolsOf = Mapping[str, Sequence[str] | str]


class CostUnknownError(Exception):
    """Nobody can say what a job costs; the text says why."""


@dataclass(frozen=True)
class _Costed:
    job: Job
    account: Account
    symbols: Sequence[str]
    runs: Sequence[int]
    a_run: int

    def calls(self, first: int, hours: int) -> int:
        return self.a_run * sum(self.runs[first : first + hours])


def cost_plan(
    jobs: Sequence[Job], symbols_of: SymbolsOf, accounts: Mapping[str, Account], calendars: Calendars, now: datetime
) -> CostPlan:
    """The costs of these jobs on the seven days from `now`'s on, and how much of each limit they want together."""
    day = now.astimezone(UTC).date()
    start = datetime.combine(day, time(), UTC)
    runs = _runs_by_hour(jobs, calendars, start)
    costs, costed = [], []
    for job in jobs:
        try:
            each = _costed(job, symbols_of[job.id], accounts, runs[job.id])
        except (NoProviderError, CostUnknownError) as error:
            costs.append(_cost(job, problem=str(error)))
        else:
            costed.append(each)
            costs.append(_cost(job, each))
    limits = [use for name in sorted(accounts) for use in _limits(accounts[name], [c for c in costed if c.account.name == name])]
    return CostPlan(from_day=day, jobs=costs, limits=limits)


def _runs_by_hour(jobs: Sequence[Job], calendars: Calendars, start: datetime) -> dict[str, Sequence[int] | str]:
    """How often each job runs in each hour; of one that follows another as often as that, or as often as it has to."""
    by_id = {job.id: job for job in jobs}
    found: dict[str, Sequence[int] | str] = {}

    def runs(job: Job) -> Sequence[int] | str:
        if job.id not in found:
            found[job.id] = "it follows itself"
            found[job.id] = follows(job) if job.after else falls_due(job)
        return found[job.id]

    def falls_due(job: Job) -> Sequence[int] | str:
        try:
            schedule = schedule_of(job, calendars)
        except ValueError as error:
            return str(error)
        if isinstance(schedule, Never):
            return schedule.why
        hours = [start + timedelta(hours=hour) for hour in range(_HOURS + 1)]
        # A slot counts for the hour that it begins.
        just_before = [hour - timedelta(microseconds=1) for hour in hours]
        return [schedule.count(since, until) for since, until in pairwise(just_before)]

    def follows(job: Job) -> Sequence[int] | str:
        leader = by_id.get(job.after or "")
        led = runs(leader) if leader else [0] * _HOURS
        if isinstance(led, str):
            return led
        least = _HOUR_S / job.at_least_every_s if job.at_least_every_s else 0.0
        return [max(count, math.ceil(least * (hour + 1)) - math.ceil(least * hour)) for hour, count in enumerate(led)]

    for job in jobs:
        runs(job)
    return found


def _costed(job: Job, symbols: Sequence[str] | str, accounts: Mapping[str, Account], runs: Sequence[int] | str) -> _Costed:
    for fault in (symbols, runs):
        if isinstance(fault, str):
            raise CostUnknownError(fault)
    account = candidates(accounts, _probe(job), job.provider)[0]
    names = list(symbols)[: job.max_symbols]
    counted = account.profile.every_symbol_counts
    a_run = len(names) if counted else math.ceil(len(names) / account.symbols_per_call(job.dataset))
    return _Costed(job, account, names, [int(count) for count in runs], a_run)


def _probe(job: Job) -> FetchTask:
    now = datetime.now(UTC)
    return FetchTask(
        provider="",
        lane=job.lane,
        symbol="X",
        dataset=job.dataset,
        timeframe=job.timeframe or ("1d" if job.dataset == "bars" else None),
        wanted_at=now,
        expires_at=now,
        request_id="",
        run_id="",
    )


def _cost(job: Job, costed: _Costed | None = None, problem: str | None = None) -> JobCost:
    known: dict[str, Any] = {}
    if costed is not None:
        runs = max(sum(costed.runs[hour : hour + 24]) for hour in range(0, _HOURS, 24))
        known = {
            "provider": costed.account.name,
            "symbols": len(costed.symbols),
            "runs": runs,
            "calls": runs * costed.a_run,
        }
    timeframe = job.timeframe or ("1d" if job.dataset == "bars" else None)
    return JobCost(job=job.id, lane=job.lane, dataset=job.dataset, timeframe=timeframe, problem=problem, **known)


def _limits(account: Account, jobs: Sequence[_Costed]) -> Iterator[LimitUse]:
    together: dict[str, int] = defaultdict(int)
    windows: dict[str, QuotaWindow] = {}
    for key in account.keys:
        for window in key.windows:
            together[window.token] += window.limit
            windows[window.token] = window
    for token, limit in together.items():
        wanted = _wanted(windows[token], [job for job in jobs if job.job.lane in windows[token].lanes])
        fits = wanted <= limit
        yield LimitUse(
            provider=account.name, window=token, limit=limit, wanted=wanted, fits=fits, do=None if fits else _advice(account, token)
        )


def _wanted(window: QuotaWindow, jobs: Sequence[_Costed]) -> int:
    if window.window == SYMBOLS:
        return len({symbol for job in jobs for symbol in job.symbols})
    if window.monthly:
        return math.ceil(sum(job.calls(0, _HOURS) for job in jobs) * _DAYS_A_MONTH / DAYS)
    hours = 24 if window.window == "day" else max(1, min(24, math.ceil(window.length_s / _HOUR_S)))
    fullest = max((sum(job.calls(hour, hours) for job in jobs) for hour in range(0, _HOURS, hours)), default=0)
    # Within an hour calls are spread.
    share = min(1.0, window.length_s / _HOUR_S) if hours == 1 else 1.0
    return math.ceil(fullest * share)


def _advice(account: Account, token: str) -> str:
    name = account.name
    if token == SYMBOLS:
        return f"fewer symbols, another provider, or a larger plan: providers.{name}.symbols_per_month"
    window, _, lane = token.partition("-")
    larger = f"providers.{name}.per_{window}" if not window[0].isdigit() else f"providers.{name}.windows"
    share = f", or keep less for others: providers.{name}.kept_for_{'manual' if lane == 'live' else 'live'}" if lane else ""
    return f"fewer runs or symbols, another provider, or a larger plan: {larger}{share}"
