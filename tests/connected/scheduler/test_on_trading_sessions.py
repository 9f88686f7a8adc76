"""Sessions, chains, ranges and jitter on a real server, and clocks as processes that are killed."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts import subjects
from contracts.job import Job
from contracts.message import encode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished
from contracts.trading_sessions import TradingSessions
from quotebus.embedded import NatsServer
from services.runtime.bus import Bus, connect
from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.calendar_store import read_sessions
from services.runtime.settings import NatsSettings
from services.scheduler.clock import utc_now
from services.scheduler.renew_sessions import SessionsError, renew
from tests.connected.scheduler.clocks import asked, born, processes, put, requests, ticking, until
from tests.runtime.schedules.exchanges import sessions

HOUR, DAY, SECOND = timedelta(hours=1), timedelta(days=1), timedelta(seconds=1)


def job(name: str = "j", **terms: Any) -> Job:
    return Job(id=name, symbols=["AAPL"], **{"enabled_at": utc_now(), **terms})


async def put_sessions(bus: Bus, known: TradingSessions) -> None:
    await (await bus.js.key_value(subjects.SESSIONS_BUCKET)).put(known.calendar, encode(known))


def days_around(today: date, *, closed: bool) -> TradingSessions:
    """Sessions round the clock, today's left out or not. An exchange's date is New York's."""
    days = [today + n * DAY for n in range(-3, 4) if n or not closed]
    hours = [(datetime(d.year, d.month, d.day, tzinfo=UTC), datetime(d.year, d.month, d.day, tzinfo=UTC) + DAY) for d in days]
    return sessions(days, hours, today - 3 * DAY, today + 3 * DAY)


async def test_on_a_holiday_nothing_is_asked_and_when_it_turns_out_to_be_none_the_job_goes_on(bus: Bus) -> None:
    # At the exchange the date may change while this runs: both dates are closed.
    now = utc_now()
    closed = sessions([date(2020, 1, 2)], [(now - DAY, now - DAY + HOUR)], now.date() - 5 * DAY, now.date() + 5 * DAY)
    await put_sessions(bus, closed)
    await put(bus, job(every_s=1.0, calendar="XNYS"), job("other", every_s=1.0))
    async with ticking(bus):
        await asked(bus, 3, "other")
        assert await requests(bus) == []
        await put_sessions(bus, days_around(now.date(), closed=False))
        each_slot_once(job(every_s=1.0), await asked(bus, 3))


async def test_a_job_of_an_exchange_that_nobody_knows_gets_its_sessions_from_a_process_of_its_own(
    bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    await put(bus, job(session="every 1m", calendar="XNYS"), job("tokyo", every_s=60.0, calendar="XTKS"), job("plain", every_s=1.0))
    async with processes(nats_server.url, tmp_path, 1) as [clock]:

        async def known() -> bool:
            return set(await read_sessions(bus.js, ["XNYS", "XTKS"])) == {"XNYS", "XTKS"}

        await until(known, 60.0)
        await asked(bus, 2, "plain")
        loaded = " ".join(part.path for part in psutil.Process(clock.pid).memory_maps())
        assert "python" in loaded
        assert "pandas" not in loaded
        assert "numpy" not in loaded
    found = await read_sessions(bus.js, ["XNYS", "XTKS"])
    assert (found["XNYS"].last - utc_now().date()).days > 300
    assert any(pause is not None for pause in found["XTKS"].break_start)


async def test_sessions_are_made_once_a_day_and_what_cannot_be_made_is_named(bus: Bus) -> None:
    made = await renew(bus.js, ["XLON"])
    assert made[0].startswith("sessions of XLON: known until ")
    assert await renew(bus.js, ["XLON"]) == []
    assert len(await renew(bus.js, ["XLON"], older_than=timedelta())) == 1
    with pytest.raises(SessionsError, match="sessions not made: XNIX: KeyError"):
        await renew(bus.js, ["XNIX", "XLON"])


async def run_of(bus: Bus, name: str, number: int, at: datetime, identity: str = "") -> None:
    over = RunFinished(
        run_id=str(number),
        request_id=f"r{number}",
        job=name,
        planned=1,
        counts={"refreshed": 1},
        calls={},
        started_at=at,
        finished_at=at,
    )
    await bus.publish(subjects.run("finished", name), over, message_id=identity or f"finished-{number}")


async def test_a_job_follows_each_finished_run_of_another_once_across_clocks_restarts_and_repeated_news(
    bus: Bus, nats_server: NatsServer
) -> None:
    await put(bus, job(after="first", enabled_at=utc_now() - HOUR))
    ends = [utc_now() - (10 - n) * SECOND for n in range(6)]
    async with connect(NatsSettings(url=nats_server.url), "other") as second, ticking(bus), ticking(second):
        for number in (0, 1):
            await run_of(bus, "first", number, ends[number])
            await asked(bus, number + 1)
    # While no clock lives, runs go on ending; the first one's end is told again, as by a cacher that was killed.
    await run_of(bus, "first", 0, ends[0], "again")
    for number in (2, 3):
        await run_of(bus, "first", number, ends[number])
    async with ticking(bus):
        await asked(bus, 3)
        await nats_server.kill()
        await nats_server.start()
        await until(connected(bus))
        await run_of(bus, "first", 4, ends[4])
        await run_of(bus, "second", 9, ends[5])
        found = await asked(bus, 4)
    assert [request.slot_at for request in found] == [ends[0], ends[1], ends[3], ends[4]]
    assert [request.missed_slots for request in found] == [0, 0, 1, 0]


def connected(bus: Bus) -> Any:
    async def is_connected() -> bool:
        return bus.nc.is_connected

    return is_connected


async def test_a_job_that_follows_another_runs_at_least_so_often_all_the_same(bus: Bus) -> None:
    await put(bus, follower := job(after="first", at_least_every_s=1.0))
    async with ticking(bus):
        first, second, *_ = await asked(bus, 2)
        assert first.slot_at is not None
        assert second.slot_at is not None
        assert follower.enabled_at is not None
        assert (second.slot_at - first.slot_at) % SECOND == timedelta()
        between = utc_now()
        await run_of(bus, "first", 1, between)

        async def followed() -> bool:
            return between in [request.slot_at for request in await requests(bus)]

        await until(followed)
        count = len(await requests(bus))
        again = (await asked(bus, count + 1))[-1]
    assert again.slot_at == between + SECOND


async def test_minutes_missed_in_an_outage_become_one_late_request_for_the_days_they_lie_on(bus: Bus) -> None:
    await put(bus, wanted := job(every_s=60.0, catch_up="all", timeframe="1m", enabled_at=utc_now() - 60 * HOUR))
    async with ticking(bus, ahead=-50 * HOUR):
        [before] = (await asked(bus, 1))[:1]
    async with ticking(bus):
        late = (await asked(bus, 2))[1]
    assert before.slot_at is not None
    assert late.slot_at is not None
    assert late.missed_slots == schedule_of(wanted).count(before.slot_at, late.slot_at) - 1
    assert (late.late, before.start) == (True, None if not before.missed_slots else before.start)
    assert late.start is not None
    assert late.end is not None
    # A day is as far as it catches up.
    assert (late.start, late.end) == ((late.slot_at - DAY).date(), late.slot_at.date() + DAY)


async def test_jitter_spreads_the_slots_of_many_jobs_and_every_clock_spreads_them_alike(bus: Bus, nats_server: NatsServer) -> None:
    many = [job(f"j{n}", every_s=2.0, jitter_s=2.0) for n in range(20)]
    await put(bus, *many)
    async with connect(NatsSettings(url=nats_server.url), "other") as second, ticking(bus), ticking(second):
        found = [await asked(bus, 2, each.id) for each in many]
    for wanted, made in zip(many, found, strict=True):
        each_slot_once(wanted, made)


def each_slot_once(wanted: Job, found: list[RefreshRequest]) -> None:
    """Asked and missed slots together are every slot from the first to the last, none of them twice."""
    slots = [request.slot_at for request in found if request.slot_at is not None]
    if not slots:
        return  # over before the first one
    assert slots == sorted(set(slots))
    assert sum(request.missed_slots + 1 for request in found[1:]) == schedule_of(wanted).count(slots[0], slots[-1])


@pytest.mark.slow
async def test_three_processes_of_which_one_dies_every_second_ask_for_each_slot_once_also_over_a_killed_server(
    bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    jobs = [job("seconds", every_s=1.0), job("jittered", every_s=3.0, jitter_s=2.0), job("cron", cron="* * * * *")]
    jobs.append(job("chained", after="seconds", at_least_every_s=2.0))
    await put(bus, *jobs)
    async with processes(nats_server.url, tmp_path, 3) as clocks:
        await asked(bus, 1, "seconds")
        for round_ in range(12):
            victim = round_ % 3
            clocks[victim].kill()
            await clocks[victim].wait()
            if round_ == 6:
                await nats_server.kill()
                await nats_server.start()
                await until(connected(bus))
            clocks[victim] = await born(nats_server.url, tmp_path)
            before = len(await requests(bus, "chained"))
            await run_of(bus, "seconds", round_, utc_now())
            await asked(bus, before + 1, "chained")
        count = len(await requests(bus, "seconds"))
        await asked(bus, count + 2, "seconds")
    for each in jobs[:3]:
        each_slot_once(each, await requests(bus, each.id))
    ends = [request.slot_at for request in await requests(bus, "chained")]
    assert len(ends) == len(set(ends)) >= 6
