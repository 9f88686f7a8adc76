"""The ledger against a real server: never a permit too many, whatever is killed, raced or changed."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from quotebus.embedded import NatsServer
from services.fetcher.circuit.breaker import QuotaSpentError
from services.fetcher.provider import LedgerError
from services.fetcher.quota.ledger import QuotaLedger
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.quota_streams import migrate_quota_streams, quota_stream_config
from services.runtime.quota import QuotaWindow
from services.runtime.settings import NatsSettings


async def opened(bus: Bus, *windows: QuotaWindow) -> QuotaLedger:
    for window in windows:
        await bus.js.add_stream(quota_stream_config(window, 1))
    ledger = QuotaLedger(bus, windows)
    await ledger.wait_ready()
    return ledger


async def grants(ledger: QuotaLedger, tries: int) -> int:
    results = await asyncio.gather(*(ledger.acquire() for _ in range(tries)), return_exceptions=True)
    for result in results:
        assert result is None or isinstance(result, QuotaSpentError), result
    return sum(result is None for result in results)


async def test_replicas_together_get_what_the_window_holds_and_not_one_more(bus: Bus, nats_server: NatsServer):
    minute = QuotaWindow("acme", "k1", "minute", 20)
    first = await opened(bus, minute)
    async with connect(NatsSettings(url=nats_server.url), "other") as other:
        counts = await asyncio.gather(grants(first, 30), grants(QuotaLedger(other, [minute]), 30))
    assert sum(counts) == 20


async def test_a_spent_minute_says_when_its_oldest_call_leaves_the_window(bus: Bus):
    ledger = await opened(bus, QuotaWindow("acme", "k1", "minute", 2))
    started = datetime.now(UTC)
    assert await grants(ledger, 3) == 2
    with pytest.raises(QuotaSpentError) as spent:
        await ledger.acquire()
    assert spent.value.retry_at is not None
    assert timedelta(seconds=58) < spent.value.retry_at - started < timedelta(seconds=66)


async def test_no_sliding_second_ever_holds_more_than_its_limit(bus: Bus):
    ledger = await opened(bus, QuotaWindow("acme", "k1", "second", 5))
    calls: list[float] = []

    async def caller() -> None:
        for _ in range(3):
            while True:
                try:
                    await ledger.acquire()
                except QuotaSpentError:
                    continue
                calls.append(time.monotonic())
                break

    await asyncio.gather(*(caller() for _ in range(5)))
    calls.sort()
    assert len(calls) == 15
    for i, call in enumerate(calls):
        assert sum(call <= other < call + 1 for other in calls[i:]) <= 5


async def test_a_kill_of_the_server_forgets_no_permit(bus: Bus, nats_server: NatsServer):
    ledger = await opened(bus, QuotaWindow("acme", "k1", "day", 10, "UTC"))
    if abs(datetime.now(UTC) - datetime.now(UTC).replace(hour=0, minute=0)) < timedelta(minutes=1):
        pytest.skip("too near to midnight UTC for a day's permits")
    taking = asyncio.create_task(grants(ledger, 8))
    await asyncio.sleep(0.01)
    await nats_server.kill()
    await nats_server.start()
    first = await taking
    assert first + await grants(ledger, 12) == 10


async def test_no_call_is_made_near_a_reset(bus: Bus):
    ledger = await opened(bus, QuotaWindow("acme", "k1", "day", 10, "America/New_York"))
    with time_machine.travel(datetime(2026, 3, 2, 4, 59, 45, tzinfo=UTC), tick=True), pytest.raises(QuotaSpentError) as spent:
        await ledger.acquire()
    assert spent.value.retry_at == datetime(2026, 3, 2, 5, 0, 30, tzinfo=UTC)


async def test_a_lowered_or_raised_limit_forgives_no_call(bus: Bus):
    old = QuotaWindow("acme", "k1", "hour", 10)
    ledger = await opened(bus, old)
    assert await grants(ledger, 7) == 7
    raised = QuotaWindow("acme", "k1", "hour", 12)
    [line] = await migrate_quota_streams(bus.js, [raised], 1)
    assert "7 already spent were carried over" in line
    assert await grants(QuotaLedger(bus, [raised]), 10) == 5
    with pytest.raises(LedgerError, match="ledger"):
        await ledger.acquire()  # who still counts by the old limit gets nothing
    lowered = QuotaWindow("acme", "k1", "hour", 3)
    await migrate_quota_streams(bus.js, [lowered], 1)
    assert await grants(QuotaLedger(bus, [lowered]), 2) == 0


async def test_a_ledger_that_is_still_being_carried_over_gives_no_permit_yet(bus: Bus):
    window = QuotaWindow("acme", "k1", "hour", 3)
    await bus.js.add_stream(quota_stream_config(window, 1, ready=False))
    opening = asyncio.create_task(QuotaLedger(bus, [window]).wait_ready())
    await asyncio.sleep(0.3)
    assert not opening.done()
    await bus.js.update_stream(quota_stream_config(window, 1))
    await asyncio.wait_for(opening, 5)
