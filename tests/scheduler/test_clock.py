"""Weeks of clocks that are killed, set wrong and cut off, in seconds: the real clock on a played server, in time of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.job import Job
from contracts.refresh_request import RefreshRequest
from services.runtime.bus import Bus
from services.runtime.health import Health
from services.runtime.schedules.build import schedule_of
from services.scheduler.clock import Clock
from tests.runtime.schedules.exchanges import new_york
from tests.scheduler.fake_server import PlayedBus, PlayedServer
from tests.scheduler.virtual_time import run_from, virtual_now

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
CALENDARS = {"XNYS": new_york(date(2026, 1, 1), date(2026, 12, 31))}
NEW_YORK = "America/New_York"
SPRING, AUTUMN = datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Clocks:
    """Clocks of one server. `ahead`: how wrong each one is set."""

    server: PlayedServer
    jobs: Sequence[Job]
    ahead: list[timedelta]
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def start(self, number: int) -> None:
        """Start one as a process would: it knows nothing."""
        bus = cast("Bus", PlayedBus(self.server))
        clock = Clock(
            bus, Health("scheduler"), lambda: virtual_now() + self.ahead[number], workers=4, longest_sleep_s=30.0
        )  # fmt: skip
        for job in self.jobs:
            clock.schedule(job, CALENDARS)
        self.tasks[number] = asyncio.create_task(clock.run())

    async def kill(self, number: int) -> None:
        """End one in the middle of whatever it does."""
        self.tasks[number].cancel()
        await asyncio.gather(self.tasks[number], return_exceptions=True)

    async def kill_all(self) -> None:
        for number in self.tasks:
            await self.kill(number)


def a_job(name: str, **terms: Any) -> Job:
    return Job(id=name, symbols=["AAPL"], enabled_at=terms.pop("enabled_at", SPRING), **terms)


def the_jobs(enabled_at: datetime) -> list[Job]:
    terms: dict[str, dict[str, Any]] = {
        "minutes": {"every_s": 60.0, "calendar": "XNYS"},
        "jittered": {"every_s": 300.0, "jitter_s": 200.0},
        "gap": {"at": ["02:30", "16:15"], "timezone": NEW_YORK},
        "skipped": {"at": ["02:30", "01:30"], "timezone": NEW_YORK, "dst_gap": "skip", "dst_fold": "both", "days": ["sun", "mon"]},
        "cron": {"cron": "*/20 1-3 * * *", "timezone": NEW_YORK},
        "quarters": {"session": "every 15m from open+5m to close+5m", "calendar": "XNYS", "jitter_s": 60.0},
        "weekly": {"session": "close+30m", "calendar": "XNYS", "days": ["last-of-week"], "timeframe": "1wk"},
    }
    return [a_job(name, enabled_at=enabled_at, **each) for name, each in terms.items()]


def every_slot_once(job: Job, asked: list[RefreshRequest], began: datetime, ended: datetime) -> None:
    """Each slot of that time was asked for, on time, and none of them twice."""
    slots = [request.slot_at for request in asked]
    assert len(slots) == len(set(slots))
    schedule, expected = schedule_of(job, CALENDARS), []
    slot = began
    while (slot := schedule.next_after(slot)) <= ended:
        expected.append(slot)
    assert slots[: len(expected)] == expected
    assert all(request.missed_slots == 0 and not request.late for request in asked[: len(expected)])


@pytest.mark.slow
def test_three_clocks_of_which_one_is_killed_every_minute_of_a_week_ask_for_every_slot_once() -> None:
    random, jobs, ended = Random(7), the_jobs(SPRING - DAY), SPRING + 6 * DAY
    server = PlayedServer(random)

    async def a_week() -> None:
        clocks = Clocks(server, jobs, [timedelta()] * 3)
        for number in range(3):
            clocks.start(number)
        while virtual_now() < ended:
            await asyncio.sleep(60)
            victim = random.randrange(3)
            await clocks.kill(victim)
            clocks.start(victim)
        await clocks.kill_all()

    run_from(SPRING - DAY, a_week())
    assert server.count > 4000
    for job in jobs:
        every_slot_once(job, server.asked(job.id), SPRING - DAY, ended - HOUR)


def nothing_twice_and_all_accounted_for(job: Job, asked: list[RefreshRequest]) -> None:
    """No slot twice or out of order; those asked and those counted as missed together are all there were."""
    slots = [request.slot_at for request in asked if request.slot_at is not None]
    assert slots == sorted(set(slots))
    schedule = schedule_of(job, CALENDARS)
    for before, request in zip(slots, asked[1:], strict=False):
        assert request.slot_at is not None
        assert request.missed_slots == schedule.count(before, request.slot_at) - 1


lengths = st.integers(1, 400).map(lambda n: timedelta(seconds=37 * n))
events = st.tuples(
    lengths, st.sampled_from(["kill", "kill", "jump", "server", "nothing"]), st.integers(0, 2), st.integers(-900, 900)
)
kinds = st.one_of(
    st.builds(lambda n: {"every_s": float(n)}, st.sampled_from([30, 61, 600, 3600])),
    st.builds(
        lambda n, jitter: {"every_s": float(n), "jitter_s": jitter}, st.sampled_from([60, 900]), st.sampled_from([5.0, 5000.0])
    ),
    st.builds(
        lambda times, gap, fold: {"at": times, "timezone": NEW_YORK, "dst_gap": gap, "dst_fold": fold},
        st.lists(st.sampled_from(["00:00", "01:30", "02:00", "02:30", "03:00", "23:59"]), min_size=1, max_size=3),
        st.sampled_from([None, "next", "skip"]),
        st.sampled_from([None, "first", "both"]),
    ),
    st.builds(lambda text: {"cron": text, "timezone": NEW_YORK}, st.sampled_from(["*/7 * * * *", "30 1,2 * * *", "0 * * * *"])),
    st.builds(lambda text: {"session": text, "calendar": "XNYS"}, st.sampled_from(["open+5m", "every 10m", "close-10m"])),
    st.just({"every_s": 120.0, "calendar": "XNYS", "days": ["mon", "tue"]}),
)
policies = st.fixed_dictionaries(
    {"catch_up": st.sampled_from(["latest", "all", "none"]), "catch_up_window_s": st.sampled_from([0.0, 3600.0, 86400.0])}
)
job_sets = st.lists(st.builds(lambda kind, policy: {**kind, **policy}, kinds, policies), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([SPRING, AUTUMN]), job_sets, st.lists(events, min_size=1, max_size=12), st.integers(0, 2**16))
@pytest.mark.slow
def test_whatever_is_killed_set_wrong_or_cut_off_no_slot_is_asked_twice_and_each_is_accounted_for(
    change: datetime, terms: list[dict[str, Any]], disasters: list[tuple[timedelta, str, int, int]], seed: int
) -> None:
    began = change - 6 * HOUR
    jobs = [a_job(f"j{number}", enabled_at=began, **each) for number, each in enumerate(terms)]
    server = PlayedServer(Random(seed), loses=0.05)

    async def some_days() -> None:
        clocks = Clocks(server, jobs, [timedelta()] * 3)
        for number in range(3):
            clocks.start(number)
        for wait, what, number, seconds in disasters:
            await asyncio.sleep(wait.total_seconds())
            if what == "kill":
                await clocks.kill(number)
                clocks.start(number)
            elif what == "jump":
                clocks.ahead[number] = timedelta(seconds=seconds)
            elif what == "server":
                server.up = not server.up
        server.up = True
        await asyncio.sleep(7200)
        await clocks.kill_all()

    run_from(began, some_days())
    for job in jobs:
        nothing_twice_and_all_accounted_for(job, server.asked(job.id))
