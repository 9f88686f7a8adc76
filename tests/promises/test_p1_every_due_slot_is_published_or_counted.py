"""P1: every due slot is published, late if it must be, or counted as missed."""

import asyncio

import structlog

from quotebus.embedded import NatsServer
from services.runtime.bus import Bus
from services.runtime.schedules.build import schedule_of
from services.scheduler.clock import utc_now
from tests.connected.scheduler.clocks import HOUR, asked, each_slot_once, job, put, requests, ticking, until


async def test_a_clock_that_was_down_asks_once_for_the_newest_slot(bus: Bus):
    await put(bus, wanted := job(every_s=600.0, enabled_at=utc_now() - 2 * HOUR, expires_after_s=60.0))
    async with ticking(bus, ahead=-HOUR):
        await asked(bus, 1)
    started = utc_now()
    async with ticking(bus) as clock:
        before, late = await asked(bus, 2)
        assert late.slot_at in {schedule_of(wanted).last_until(before.slot_at, at) for at in (started, utc_now())}
        assert late.missed_slots == schedule_of(wanted).count(before.slot_at, late.slot_at) - 1 > 3
        assert late.expires_at > utc_now()
        await put(bus, job("other"))
        await asked(bus, 1, "other")
        assert len(await requests(bus)) == 2
        assert sorted(clock.jobs) == ["j", "other"]


async def test_slots_too_old_to_catch_up_are_reported_and_counted_in_the_next_request(bus: Bus):
    started = utc_now()
    hourly = job(every_s=3600.0, enabled_at=started - 5 * HOUR, catch_up="none")
    await put(bus, hourly)
    half_past = started.replace(minute=30, second=0, microsecond=0)
    with structlog.testing.capture_logs() as lines:
        async with ticking(bus, ahead=half_past - started):

            async def said() -> bool:
                return any(line["event"] == "slots_missed" for line in lines)

            await until(said)
    assert await requests(bus) == []
    [line] = [line for line in lines if line["event"] == "slots_missed"]
    missed = line["missed_slots"]
    assert missed == schedule_of(hourly).count(hourly.enabled_at, half_past)
    async with ticking(bus, ahead=half_past - started + HOUR / 2):
        [request] = await asked(bus, 1)
    assert request.missed_slots == missed


async def test_a_killed_server_costs_no_slot_and_no_duplicate(bus: Bus, nats_server: NatsServer):
    await put(bus, wanted := job())
    async with ticking(bus):
        await asked(bus, 2)
        await nats_server.kill()
        await asyncio.sleep(1.2)
        await nats_server.start()

        async def again() -> bool:
            return bus.nc.is_connected

        await until(again)
        found = await asked(bus, len(await requests(bus)) + 3)
        await put(bus, job("new"))
        await asked(bus, 1, "new")
    each_slot_once(wanted, found)
