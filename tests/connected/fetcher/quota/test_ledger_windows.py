"""Windows beyond the plain one, against a real server: credits, several at once, symbols of a month, shares of lanes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from typing_extensions import override

from contracts.message import Lane
from quotebus.embedded import NatsServer
from services.fetcher.circuit.breaker import QuotaSpentError
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.quota.ledger import QuotaLedger, permits_used
from services.fetcher.tasks.key_assignment import KeySymbolQuota
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.quota_streams import migrate_quota_streams, quota_stream_config
from services.runtime.quota import SYMBOLS, QuotaWindow, lane_reserves
from services.runtime.settings import NatsSettings


@pytest.fixture
async def replicas(nats_server: NatsServer) -> AsyncIterator[Sequence[Bus]]:
    """Connections of four processes, as far as the server can tell."""
    settings = NatsSettings(url=nats_server.url)
    async with connect(settings, "a") as a, connect(settings, "b") as b, connect(settings, "c") as c, connect(settings, "d") as d:
        yield a, b, c, d


@pytest.fixture(autouse=True)
def far_from_midnight() -> None:
    now = datetime.now(UTC)
    if (now + timedelta(minutes=2)).date() != (now - timedelta(minutes=1)).date():
        pytest.skip("too near to midnight UTC for a day's permits")


async def ledgers(replicas: Sequence[Bus], *windows: QuotaWindow) -> list[QuotaLedger]:
    for window in windows:
        await replicas[0].js.add_stream(quota_stream_config(window, 1))
    made = [QuotaLedger(bus, windows) for bus in replicas]
    for ledger in made:
        await ledger.wait_ready()
    return made


async def granted(ledger: QuotaLedger, tries: int, cost: int = 1, lane: Lane = "manual") -> int:
    count = 0
    for _ in range(tries):
        try:
            await ledger.acquire(cost, lane)
            count += 1
        except QuotaSpentError:
            pass
    return count


async def by_all(made: Sequence[QuotaLedger], tries: int, cost: int = 1, lane: Lane = "manual") -> int:
    return sum(await asyncio.gather(*(granted(ledger, tries, cost, lane) for ledger in made)))


async def test_a_call_of_several_credits_takes_all_of_its_permits_or_none(replicas: Sequence[Bus]) -> None:
    minute, day = QuotaWindow("acme", "k1", "minute", 1000), QuotaWindow("acme", "k1", "day", 50)
    made = await ledgers(replicas, minute, day)
    assert await by_all(made, 8, cost=4) == 12
    assert (await permits_used(replicas[0].js, day))[0] == 48
    assert await by_all(made, 2, cost=3) == 0
    assert await by_all(made, 2, cost=1) == 2


async def test_a_call_that_costs_more_than_a_window_ever_holds_is_a_bad_request(replicas: Sequence[Bus]) -> None:
    [ledger, *_] = await ledgers(replicas, QuotaWindow("acme", "k1", "minute", 8))
    with pytest.raises(ProviderError, match=r"a call of 9 credits never fits 8 calls a minute") as refused:
        await ledger.acquire(9)
    assert refused.value.verdict is Verdict.BAD_REQUEST


async def test_credits_granted_across_a_kill_of_the_server_are_all_stored(replicas: Sequence[Bus], nats_server: NatsServer) -> None:
    day = QuotaWindow("acme", "k1", "day", 90)
    made = await ledgers(replicas, day)
    taking = asyncio.create_task(by_all(made, 6, cost=3))
    await asyncio.sleep(0.02)
    await nats_server.kill()
    await nats_server.start()
    first = await taking
    used, _ = await permits_used(replicas[0].js, day)
    assert used == 3 * first
    assert first + await by_all(made, 30, cost=3) == 30


async def test_no_window_of_several_is_ever_overspent_by_several_replicas(replicas: Sequence[Bus]) -> None:
    windows = [QuotaWindow("acme", "k1", name, limit) for name, limit in (("second", 6), ("3s", 9), ("hour", 40), ("day", 25))]
    made = await ledgers(replicas, *windows)
    calls: list[float] = []

    async def caller(ledger: QuotaLedger) -> None:
        while len(calls) < 25:
            try:
                await ledger.acquire()
            except QuotaSpentError as spent:
                if spent.window.window == "day":
                    return
                continue
            calls.append(asyncio.get_running_loop().time())

    await asyncio.gather(*(caller(ledger) for ledger in made))
    calls.sort()
    assert 20 <= len(calls) <= 25
    for length_s, limit in ((1.0, 6), (3.0, 9)):
        assert max(sum(call <= other < call + length_s for other in calls[i:]) for i, call in enumerate(calls)) <= limit


async def test_of_a_months_symbols_each_counts_once_and_no_replica_gets_one_more(
    replicas: Sequence[Bus], nats_server: NatsServer
) -> None:
    month = QuotaWindow("acme", "k1", SYMBOLS, 20)
    await replicas[0].js.add_stream(quota_stream_config(month, 1))
    desks = [KeySymbolQuota(bus, month) for bus in replicas]
    wanted = [f"S{i}" for i in range(30)]
    refused = await asyncio.gather(*(desk.take(wanted[i:] + wanted[:i]) for i, desk in enumerate(desks)))
    assert [set(each) for each in refused] == [set(refused[0])] * 4
    assert len(refused[0]) == 10
    assert (await permits_used(replicas[0].js, month))[0] == 20
    await nats_server.kill()
    await nats_server.start()
    assert set(await KeySymbolQuota(replicas[0], month).take(wanted)) == set(refused[0])
    [error] = set(map(str, (await desks[0].take([next(iter(refused[0]))])).values()))
    assert "the plan's 20 symbols of this month are others" in error


class SoonOver(QuotaWindow):
    """A month that is over in two seconds."""

    @override
    def resets_at(self, now: datetime) -> datetime:
        return now + timedelta(seconds=1)


async def test_the_symbols_of_a_month_that_is_over_make_room(replicas: Sequence[Bus]) -> None:
    over, month = SoonOver("acme", "k1", SYMBOLS, 3), QuotaWindow("acme", "k1", SYMBOLS, 3)
    await replicas[0].js.add_stream(quota_stream_config(month, 1))
    assert not await KeySymbolQuota(replicas[0], over).take(["A", "B", "C"])
    async with asyncio.timeout(20):
        while await KeySymbolQuota(replicas[1], month).take(["D", "E", "F"]):
            await asyncio.sleep(0.2)
    assert set(await KeySymbolQuota(replicas[2], month).take(["A", "D"])) == {"A"}


async def test_a_changed_number_of_symbols_carries_over_which_ones_count(replicas: Sequence[Bus]) -> None:
    month = QuotaWindow("acme", "k1", SYMBOLS, 5)
    await replicas[0].js.add_stream(quota_stream_config(month, 1))
    await KeySymbolQuota(replicas[0], month).take(["A", "B", "C"])
    raised = QuotaWindow("acme", "k1", SYMBOLS, 6)
    [line] = await migrate_quota_streams(replicas[0].js, [raised], 1)
    assert line == "acme: 6 symbols a month from now on; 3 already spent were carried over"
    assert set(await KeySymbolQuota(replicas[1], raised).take(["A", "D", "E", "F", "G", "C"])) == {"G"}


async def test_lanes_never_take_what_is_kept_for_those_above_them(replicas: Sequence[Bus]) -> None:
    day = QuotaWindow("acme", "k1", "day", 50)
    made = await ledgers(replicas, day, *lane_reserves([day], 0.2, 0.3))
    assert await by_all(made, 10, lane="backfill") == 25
    assert await by_all(made, 10, lane="live") == 15
    assert await by_all(made, 10, lane="manual") == 10


async def test_what_hand_made_requests_use_is_not_taken_from_live(replicas: Sequence[Bus]) -> None:
    day = QuotaWindow("acme", "k1", "day", 50)
    made = await ledgers(replicas, day, *lane_reserves([day], 0.2, 0.3))
    counts = await asyncio.gather(by_all(made, 3, lane="manual"), by_all(made, 15, lane="live"), by_all(made, 15, lane="backfill"))
    assert counts[0] == 12
    assert sum(counts) <= 50
    assert counts[1] + counts[2] <= 40
    assert counts[2] <= 25
