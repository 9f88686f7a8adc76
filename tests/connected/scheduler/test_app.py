"""Clocks against a real server: several at once, one killed, the server killed, jobs of every kind."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import psutil
import structlog
from nats.errors import Error as NatsError

from contracts import subjects
from contracts.job import Job
from contracts.message import encode
from contracts.refresh_request import RefreshRequest
from quotebus.embedded import NatsServer
from services.runtime.bus import Bus
from services.runtime.jobs.store import job_of, read_job_entries
from services.scheduler.clock import utc_now
from services.scheduler.sync_jobs import PAUSED_BY_SETTINGS, sync_settings_jobs
from tests.connected.scheduler.clocks import HOUR, asked, job, processes, put, requests, ticking, until


async def bucket_jobs(bus: Bus) -> dict[str, Job]:
    return {entry.key: job_of(entry) async for entry in read_job_entries(bus.nc) if entry.value is not None}


async def test_a_paused_job_asks_nothing_until_it_is_resumed_and_its_pause_is_no_miss(bus: Bus):
    await put(bus, job(), job("other"))
    async with ticking(bus) as clock:
        await asked(bus, 1)
        await put(bus, job(enabled=False, paused_reason="budget"))

        async def gone() -> bool:
            return clock.jobs == ["other"]

        await until(gone)
        count = len(await requests(bus))
        await asked(bus, len(await requests(bus, "other")) + 2, "other")
        assert len(await requests(bus)) == count
        resumed_at = utc_now()
        await put(bus, job(enabled_at=resumed_at))
        found = await asked(bus, count + 1)
        assert found[count].slot_at > resumed_at


async def test_a_deleted_job_asks_nothing_more(bus: Bus):
    await put(bus, job())
    async with ticking(bus) as clock:
        await asked(bus, 1)
        await (await bus.js.key_value(subjects.JOBS_BUCKET)).delete("j")

        async def gone() -> bool:
            return clock.jobs == []

        await until(gone)


async def test_a_malformed_job_is_said_once_with_its_field_and_stops_nobody(bus: Bus):
    bucket = await bus.js.key_value(subjects.JOBS_BUCKET)
    bodies = {
        "no_json": b"{",
        "bad_field": b'{"type":"job.v1","id":"bad_field","every_s":"often","symbols":["A"]}',
        "misspelt": b'{"type":"job.v1","id":"misspelt","evry_s":5,"symbols":["A"]}',
        "bad_cron": encode(job("bad_cron", cron="61 * * * *")),
        "other_key": encode(job("j")),
        "empty": b"",
    }
    with structlog.testing.capture_logs() as lines:
        for key, body in bodies.items():
            await bucket.put(key, body)
        await put(bus, job("good"))
        async with ticking(bus) as clock:
            await asked(bus, 2, "good")
            assert clock.jobs == ["good"]
    said = {line["job"]: line["error"] for line in lines if line["event"] == "job_malformed"}
    assert len([line for line in lines if line["event"] == "job_malformed"]) == len(bodies)
    for key, word in {"bad_field": "every_s", "misspelt": "evry_s", "bad_cron": "cron", "other_key": "id"}.items():
        assert word in said[key]


async def test_a_job_nested_deeper_than_the_stack_stops_no_other(bus: Bus):
    async with ticking(bus):
        bucket = await bus.js.key_value(subjects.JOBS_BUCKET)
        await bucket.put("deep", b'{"type":' + b"[" * 3000 + b"]" * 3000 + b"}")
        await put(bus, job("good"))
        await asked(bus, 2, "good")
    assert await requests(bus, "deep") == []


async def test_a_job_that_a_person_ran_by_hand_goes_on_with_its_slots(bus: Bus):
    await put(bus, job())
    async with ticking(bus):
        await asked(bus, 1)
        await bus.publish(subjects.refresh_request("manual", "j"), RefreshRequest(symbols=["AAPL"]))
        await bus.publish(subjects.refresh_request("manual", "j"), b"not a request")
        count = len([r for r in await raw_requests(bus) if b"slot_at" in r])
        await until(lambda: more_slots(bus, count + 2))


async def raw_requests(bus: Bus) -> list[bytes]:
    last = (await bus.js.stream_info(subjects.REFRESH)).state.last_seq
    return [(await bus.js.get_msg(subjects.REFRESH, seq=n)).data or b"" for n in range(1, last + 1)]


async def more_slots(bus: Bus, count: int) -> bool:
    return len([body for body in await raw_requests(bus) if b'"slot_at":"' in body]) >= count


async def test_the_settings_jobs_are_made_changed_and_removed_and_nobody_elses(bus: Bus):
    now = utc_now()
    mine = job("mine", origin="person", lane="backfill")
    await put(bus, mine)
    first = [job(name, origin="settings", enabled_at=None) for name in ("a", "b", "mine")]
    await sync_settings_jobs(bus.nc, first, now)
    there = await bucket_jobs(bus)
    assert sorted(there) == ["a", "b", "mine"]
    assert (there["a"].enabled_at, there["a"].origin, there["mine"]) == (now, "settings", mine)

    await put(bus, job("a", origin="settings", enabled=False, paused_reason="mine now", enabled_at=now))
    await sync_settings_jobs(bus.nc, [job("a", origin="settings", cron="0 9 * * *", enabled_at=None)], now + HOUR)
    there = await bucket_jobs(bus)
    assert sorted(there) == ["a", "mine"]
    a = there["a"]
    assert (a.cron, a.every_s, a.enabled, a.paused_reason, a.enabled_at) == ("0 9 * * *", None, False, "mine now", now + HOUR)


async def test_a_job_disabled_in_the_settings_comes_back_when_they_say_so(bus: Bus):
    now = utc_now()
    off = job("a", origin="settings", enabled=False, enabled_at=None)
    on = job("a", origin="settings", enabled_at=None)
    await sync_settings_jobs(bus.nc, [on], now)
    await sync_settings_jobs(bus.nc, [off], now + HOUR)
    assert (await bucket_jobs(bus))["a"].paused_reason == PAUSED_BY_SETTINGS
    await sync_settings_jobs(bus.nc, [on], now + 2 * HOUR)
    there = (await bucket_jobs(bus))["a"]
    assert (there.enabled, there.paused_reason, there.enabled_at) == (True, None, now + 2 * HOUR)
    revision = (await bus.js.stream_info("KV_jobs")).state.last_seq
    await sync_settings_jobs(bus.nc, [on], now + 3 * HOUR)
    assert (await bus.js.stream_info("KV_jobs")).state.last_seq == revision


async def test_thousands_of_jobs_are_read_and_asked(bus: Bus):
    bucket = await bus.js.key_value(subjects.JOBS_BUCKET)
    at = datetime(2020, 1, 1, tzinfo=UTC)
    for chunk in range(4):
        names = [f"j{n}" for n in range(chunk * 300, chunk * 300 + 300)]
        await asyncio.gather(
            *(bucket.put(n, encode(job(n, every_s=3 * 86400.0, catch_up_window_s=7 * 86400.0, enabled_at=at))) for n in names)
        )
    async with ticking(bus):

        async def all_of_them() -> bool:
            return (await bus.js.stream_info(subjects.REFRESH)).state.messages == 1200

        await until(all_of_them)


async def test_a_disabled_scheduler_is_healthy_and_asks_nothing(bus: Bus, nats_server: NatsServer, tmp_path: Path):
    await put(bus, job())
    told = '[scheduler]\nenabled = false\n[[job]]\nid = "seeded"\nevery_s = 1\nsymbols = ["AAPL"]\n'
    async with processes(nats_server.url, tmp_path, 1, told) as [clock]:

        async def ready() -> bool:
            try:
                report = (await bus.nc.request("status.ask", b"", timeout=1)).data
            except NatsError:
                return False
            return b'"ready":true' in report.replace(b" ", b"")

        await until(ready)
        clock.terminate()
        assert await clock.wait() == 0
    assert await requests(bus) == []
    assert list(await bucket_jobs(bus)) == ["j"]


async def test_a_clock_loads_no_library_of_other_services_and_no_secret_is_in_sight(
    bus: Bus, nats_server: NatsServer, tmp_path: Path
):
    await put(bus, job())
    told = '[nats]\npassword = "canary-password"\n[providers.tiingo]\napi_key = "canary-key"\n'
    async with processes(nats_server.url, tmp_path, 1, told) as [clock]:
        await asked(bus, 2)
        process = psutil.Process(clock.pid)
        loaded = " ".join(part.path for part in process.memory_maps())
        assert "msgspec" in loaded
        for library in ("pydantic", "aiohttp", "hiredis", "asyncpg", "numpy"):
            assert library not in loaded
        assert "canary" not in " ".join([*process.cmdline(), *process.environ().values()])


async def test_settings_that_cannot_be_end_the_process_with_a_line_that_says_what_is_wrong(nats_server: NatsServer, tmp_path: Path):
    told = '[[job]]\nid = "a"\ncron = "61 * * * *"\nsymbols = ["AAPL"]\n'
    async with processes(nats_server.url, tmp_path, 1, told) as [clock]:
        assert clock.stderr is not None
        said = (await clock.stderr.read()).decode()
        assert await clock.wait() == 78
    assert said.startswith("settings: job a: cron: bad minute in '61 * * * *'")
