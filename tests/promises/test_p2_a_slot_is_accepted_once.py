"""P2: a slot is accepted once, across clocks, their skew and restarts."""

from datetime import timedelta
from pathlib import Path

from quotebus.embedded import NatsServer
from services.runtime.bus import Bus, connect
from services.runtime.settings import NatsSettings
from tests.connected.scheduler.clocks import asked, each_slot_once, job, processes, put, requests, ticking


async def test_two_processes_and_one_killed_ask_for_each_slot_once(bus: Bus, nats_server: NatsServer, tmp_path: Path):
    await put(bus, wanted := job())
    async with processes(nats_server.url, tmp_path, 2) as clocks:
        await asked(bus, 2)
        clocks[0].kill()
        await clocks[0].wait()
        each_slot_once(wanted, await asked(bus, len(await requests(bus)) + 3))
        clocks[1].terminate()
        assert await clocks[1].wait() == 0


async def test_clocks_that_differ_by_seconds_ask_for_each_slot_once(bus: Bus, nats_server: NatsServer):
    await put(bus, wanted := job())
    async with (
        connect(NatsSettings(url=nats_server.url), "fast") as other,
        ticking(bus),
        ticking(other, ahead=timedelta(seconds=2.3)),
    ):
        each_slot_once(wanted, await asked(bus, 5))
