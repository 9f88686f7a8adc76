"""Slots without a request of their own: told once, by whichever clock finds them, and with every slot named."""

import asyncio
from datetime import timedelta

from contracts import subjects
from contracts.message import decode
from contracts.run_events import MAX_SLOTS, RunMissed
from quotebus.embedded import NatsServer
from services.runtime.bus import Bus, connect
from services.runtime.schedules.build import schedule_of
from services.runtime.settings import NatsSettings
from services.scheduler.clock import utc_now
from services.scheduler.missed_slots import Missed, publish_missed
from tests.connected.scheduler.clocks import HOUR, asked, job, put, requests, ticking, until


async def told(bus: Bus) -> list[RunMissed]:
    info = await bus.js.stream_info(subjects.RUNS)
    numbers = range(info.state.first_seq, info.state.last_seq + 1)
    return [decode((await bus.js.get_msg(subjects.RUNS, number)).data or b"", RunMissed) for number in numbers if number]


async def some_told(bus: Bus) -> bool:
    return bool(await told(bus))


async def test_slots_of_an_outage_are_told_as_caught_up_by_the_request_that_serves_them(bus: Bus):
    await put(bus, wanted := job(every_s=600.0, enabled_at=utc_now() - 2 * HOUR))
    async with ticking(bus, ahead=-HOUR):
        await asked(bus, 1)
    async with ticking(bus):
        before, late = await asked(bus, 2)
        await until(lambda: some_told(bus))
    first, *others = await told(bus)
    assert others[-1:] == [] or others[-1].slots[-1] < late.slot_at
    newest = (others or [first])[-1]
    assert (newest.job, newest.reason, newest.missed) == ("j", "caught_up", late.missed_slots)
    schedule = schedule_of(wanted)
    assert newest.slots[0] == schedule.next_after(before.slot_at)
    assert len(newest.slots) == schedule.count(before.slot_at, late.slot_at) - 1
    assert late.slot_at not in newest.slots


async def test_slots_too_old_to_catch_up_are_told_once_by_all_clocks_and_restarts_together(bus: Bus, nats_server: NatsServer):
    started = utc_now()
    hourly = job(every_s=3600.0, enabled_at=started - 5 * HOUR, catch_up="none")
    await put(bus, hourly)
    half_past = started.replace(minute=30, second=0, microsecond=0)
    for witness in ("first", "second"):
        async with (
            connect(NatsSettings(url=nats_server.url), "another") as other,
            ticking(bus, ahead=half_past - started),
            ticking(other, ahead=half_past - started),
        ):
            await until(lambda: some_told(bus))
            await put(bus, job(witness, enabled_at=half_past - timedelta(seconds=5)))
            await asked(bus, 1, witness)
    [event] = [event for event in await told(bus) if event.job == "j"]
    assert (event.reason, event.missed) == ("too_late", schedule_of(hourly).count(hourly.enabled_at, half_past))
    assert event.slots == sorted(set(event.slots))
    assert len(event.slots) == event.missed
    assert await requests(bus) == []


async def test_what_was_told_is_not_told_again_and_what_is_new_is_told_from_there(bus: Bus):
    schedule, now = schedule_of(job(every_s=60.0)), utc_now()
    early = Missed(now - HOUR, now - HOUR / 2, "too_late", now)
    assert await publish_missed(bus, "j", schedule, early)
    assert not await publish_missed(bus, "j", schedule, early)
    assert await publish_missed(bus, "j", schedule, Missed(now - HOUR, now, "caught_up", now))
    first, second = await told(bus)
    assert schedule.next_after(first.slots[-1]) == second.slots[0]
    assert len(first.slots) + len(second.slots) == schedule.count(now - HOUR, now)


async def test_of_clocks_that_tell_at_once_one_is_heard(bus: Bus):
    schedule, now = schedule_of(job(every_s=60.0)), utc_now()
    ranges = [Missed(now - HOUR, now - timedelta(minutes=n), "too_late", now) for n in range(6)]
    await asyncio.gather(*(publish_missed(bus, "j", schedule, missed) for missed in ranges))
    slots = [slot for event in await told(bus) for slot in event.slots]
    assert slots == sorted(set(slots))


async def test_a_week_of_minutes_is_counted_in_full_and_its_newest_slots_are_named(bus: Bus):
    schedule, now = schedule_of(job(every_s=60.0)), utc_now()
    assert await publish_missed(bus, "j", schedule, Missed(now - timedelta(days=7), now, "too_late", now))
    [event] = await told(bus)
    assert (event.missed, len(event.slots)) == (7 * 1440, MAX_SLOTS)
    assert event.slots[-1] == schedule.last_until(now - HOUR, now)
