"""Cost estimate: the calls that jobs will make per provider and hour, against every limit; pure computation."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

from contracts.fetch_task import FetchTask
from contracts.job import Job
from contracts.message import Timeframe
from contracts.plan_ask import CostPlan, JobCost, LimitUse
from services.fetcher.accounts import ProviderAccount
from services.fetcher.routing.router import NoProviderError, candidates
from services.runtime.quota import SYMBOLS, QuotaWindow
from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.clock_times import Schedule, Unknown
from services.runtime.schedules.sessions import Calendars

# A job of more slots is counted as if nobody shared its calls: to look at each of them would take seconds.
MOST_SLOTS = 20_000
_TICK = timedelta(microseconds=1)
_HOUR = timedelta(hours=1)

_HOUR_S = 3600.0

DAYS = 7
_HOURS = DAYS * 24
_DAYS_A_MONTH = 30
# The symbols of each job, or why nobody knows them.
SymbolsOf = Mapping[str, Sequence[str] | str]


@dataclass(frozen=True)
class JobDemand:
    """Demand of a job per slot. `slots`: how many in the hours that count; `calls_for`: number of symbols to number of calls."""

    schedule: Schedule
    symbols: frozenset[str]
    slots: int
    calls_for: Callable[[int], int]


def shared_calls_by_hour(wishes: Sequence[JobDemand], start: datetime, hours: int) -> list[list[int]]:
    """For each wish, the calls an hour that others make anyway. All are for the latest of one series, with one provider.

    Of jobs with a common slot the one that runs most pays, and the rarer one only for symbols that are its own.
    """
    found = [[0] * hours for _ in wishes]
    order = sorted(range(len(wishes)), key=lambda n: (-wishes[n].slots, n))
    for place, n in enumerate(order):
        mine = wishes[n]
        before = {m: wishes[m] for m in order[:place] if mine.symbols & wishes[m].symbols}
        if before and mine.slots <= MOST_SLOTS:
            for hour, calls in _shared(mine, before, start, hours):
                found[n][hour] += calls
    return found


def _shared(mine: JobDemand, before: Mapping[int, JobDemand], start: datetime, hours: int) -> Iterator[tuple[int, int]]:
    """The hour of each slot that others have too, and the calls it saves."""
    savings: dict[tuple[int, ...], int] = {}
    for slot in _slots(mine.schedule, start, start + hours * _HOUR):
        others = tuple(m for m, wish in before.items() if wish.schedule.last_until(slot - _TICK, slot) == slot)
        if others not in savings:
            left = mine.symbols.difference(*(before[m].symbols for m in others))
            savings[others] = mine.calls_for(len(mine.symbols)) - mine.calls_for(len(left))
        yield (slot - start) // _HOUR, savings[others]


def _slots(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    slot = start - _TICK
    while True:
        try:
            slot = schedule.next_after(slot)
        except ValueError:
            return
        if slot >= end:
            return
        yield slot


def runs_by_hour(jobs: Sequence[Job], calendars: Calendars, start: datetime, hours: int) -> dict[str, Sequence[int] | str]:
    """Runs of each job per hour, over so many hours from `start`, or the reason why they are unknown.

    One that follows another runs as often as that, or as often as it has to.
    """
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
        if isinstance(schedule, Unknown):
            return schedule.why
        edges = [start + timedelta(hours=hour) for hour in range(hours + 1)]
        # A slot counts for the hour that it begins.
        just_before = [edge - timedelta(microseconds=1) for edge in edges]
        return [schedule.count(since, until) for since, until in pairwise(just_before)]

    def follows(job: Job) -> Sequence[int] | str:
        leader = by_id.get(job.after or "")
        led = runs(leader) if leader else [0] * hours
        if isinstance(led, str):
            return led
        least = _HOUR_S / job.at_least_every_s if job.at_least_every_s else 0.0
        return [max(count, math.ceil(least * (hour + 1)) - math.ceil(least * hour)) for hour, count in enumerate(led)]

    for job in jobs:
        runs(job)
    return found


class CostUnknownError(Exception):
    """Nobody can say what a job costs; the text says why."""


@dataclass(frozen=True)
class JobUsage:
    job: Job
    account: ProviderAccount
    symbols: Sequence[str]
    runs: Sequence[int]
    shared: Sequence[int] = (0,) * _HOURS

    def calls_for(self, symbols: int) -> int:
        """Permits that a run for so many symbols takes."""
        profile = self.account.profile
        if profile.is_local:
            return 0
        return symbols if profile.every_symbol_counts else math.ceil(symbols / self.account.symbols_per_call(self.job.dataset))

    def calls(self, first: int, hours: int) -> int:
        """Permits that it takes in these hours, without those that others take for it."""
        span = slice(first, first + hours)
        return self.calls_for(len(self.symbols)) * sum(self.runs[span]) - sum(self.shared[span])


def cost_estimate(
    jobs: Sequence[Job], symbols_of: SymbolsOf, accounts: Mapping[str, ProviderAccount], calendars: Calendars, now: datetime
) -> CostPlan:
    """The costs of these jobs on the seven days from `now`'s on, and how much of each limit they want together."""
    day = now.astimezone(UTC).date()
    start = datetime.combine(day, time(), UTC)
    runs = runs_by_hour(jobs, calendars, start, _HOURS)
    known: dict[str, JobUsage] = {}
    problems: dict[str, str] = {}
    for job in jobs:
        try:
            known[job.id] = _costed(job, symbols_of[job.id], accounts, runs[job.id])
        except (NoProviderError, CostUnknownError) as error:
            problems[job.id] = str(error)
    costed = {each.job.id: each for each in _sharing(list(known.values()), calendars, start)}
    costs = [_cost(job, costed.get(job.id), problems.get(job.id)) for job in jobs]
    by_provider = {name: [each for each in costed.values() if each.account.name == name] for name in sorted(accounts)}
    limits = [use for name, its in by_provider.items() for use in _limits(accounts[name], its)]
    return CostPlan(from_day=day, jobs=costs, limits=limits)


def _sharing(jobs: Sequence[JobUsage], calendars: Calendars, start: datetime) -> Iterator[JobUsage]:
    """The same with the calls that jobs share. Jobs that follow others, or want ranges, share none that can be foretold."""
    series: dict[tuple[str, ...], list[JobUsage]] = defaultdict(list)
    for each in jobs:
        if each.job.after is not None or each.job.lookback_days is not None:
            yield each
        else:
            series[each.account.name, each.job.dataset, _timeframe(each.job) or ""].append(each)
    for alike in series.values():
        wishes = [JobDemand(schedule_of(c.job, calendars), frozenset(c.symbols), sum(c.runs), c.calls_for) for c in alike]
        for each, shared in zip(alike, shared_calls_by_hour(wishes, start, _HOURS), strict=True):
            yield replace(each, shared=shared)


def _costed(job: Job, symbols: Sequence[str] | str, accounts: Mapping[str, ProviderAccount], runs: Sequence[int] | str) -> JobUsage:
    for fault in (symbols, runs):
        if isinstance(fault, str):
            raise CostUnknownError(fault)
    account = candidates(accounts, _probe(job), job.provider)[0]
    names = list(symbols)[: job.max_symbols]
    return JobUsage(job, account, names, [int(count) for count in runs])


def _timeframe(job: Job) -> Timeframe | None:
    return job.timeframe or ("1d" if job.dataset == "bars" else None)


def _probe(job: Job) -> FetchTask:
    """A task like those of this job, for whoever looks at what is asked and never at when."""
    now = datetime.min.replace(tzinfo=UTC)
    return FetchTask(
        provider="",
        lane=job.lane,
        symbol="X",
        dataset=job.dataset,
        timeframe=_timeframe(job),
        wanted_at=now,
        expires_at=now,
        request_id="",
        run_id="",
    )


def _cost(job: Job, costed: JobUsage | None = None, problem: str | None = None) -> JobCost:
    known: dict[str, Any] = {}
    if costed is not None:
        days = range(0, _HOURS, 24)
        runs = {day: sum(costed.runs[day : day + 24]) for day in days}
        fullest = max(days, key=lambda day: (costed.calls(day, 24), runs[day]))
        known = {
            "provider": costed.account.name,
            "symbols": len(costed.symbols),
            "runs": runs[fullest],
            "calls": costed.calls(fullest, 24),
            "merged": sum(costed.shared[fullest : fullest + 24]),
        }
    return JobCost(job=job.id, lane=job.lane, dataset=job.dataset, timeframe=_timeframe(job), problem=problem, **known)


def _limits(account: ProviderAccount, jobs: Sequence[JobUsage]) -> Iterator[LimitUse]:
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


def _wanted(window: QuotaWindow, jobs: Sequence[JobUsage]) -> int:
    if window.window == SYMBOLS:
        return len({symbol for job in jobs for symbol in job.symbols})
    if window.monthly:
        return math.ceil(sum(job.calls(0, _HOURS) for job in jobs) * _DAYS_A_MONTH / DAYS)
    hours = 24 if window.window == "day" else max(1, min(24, math.ceil(window.length_s / _HOUR_S)))
    fullest = max((sum(job.calls(hour, hours) for job in jobs) for hour in range(0, _HOURS, hours)), default=0)
    # Within an hour calls are spread.
    share = min(1.0, window.length_s / _HOUR_S) if hours == 1 else 1.0
    return math.ceil(fullest * share)


def _advice(account: ProviderAccount, token: str) -> str:
    name = account.name
    if token == SYMBOLS:
        return f"fewer symbols, another provider, or a larger plan: providers.{name}.symbols_per_month"
    window, _, lane = token.partition("-")
    larger = f"providers.{name}.per_{window}" if not window[0].isdigit() else f"providers.{name}.windows"
    share = f", or keep less for others: providers.{name}.kept_for_{'manual' if lane == 'live' else 'live'}" if lane else ""
    return f"fewer runs or symbols, another provider, or a larger plan: {larger}{share}"
