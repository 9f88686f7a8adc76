"""What quotebus promises, tried by breaking it: processes and servers are killed in the middle of a run."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from contracts import subjects
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished
from tests.connected.deployment import Deployment, deployed, until
from tests.connected.fake_yahoo import PlayedYahoo

SYMBOLS = [f"S{i:03d}" for i in range(500)]
STORED = """
    SELECT count(DISTINCT i.symbol) AS symbols, count(*) AS bars
    FROM bars b JOIN instruments i ON i.id = b.instrument WHERE b.timeframe = '1d'
"""


@pytest.fixture
async def yahoo() -> AsyncIterator[PlayedYahoo]:
    async with PlayedYahoo(delay_s=0.02).serve() as played:
        yield played


def with_yahoo(yahoo: PlayedYahoo, **more: object) -> dict[str, str]:
    environment = {"QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": yahoo.url, "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0"}
    return environment | {f"QUOTEBUS_PROVIDERS__YAHOO__{name.upper()}": str(value) for name, value in more.items()}


async def all_stored(deployment: Deployment, symbols: int, bars: int = 20) -> bool:
    [row] = await deployment.rows(STORED)
    return (row["symbols"], row["bars"]) == (symbols, symbols * bars)


async def finished(deployment: Deployment) -> RunFinished | None:
    try:
        raw = await deployment.bus.js.get_last_msg(subjects.RUNS, "run.finished.*")
    except Exception:
        return None
    return decode(raw.data or b"", RunFinished)


@pytest.mark.slow
async def test_every_symbol_is_stored_once_and_no_quota_is_overspent_whatever_is_killed(tmp_path: Path, yahoo: PlayedYahoo):
    environment = with_yahoo(yahoo, per_second=40, burst=40)
    async with deployed(tmp_path, ("fetcher", "cacher"), environment) as deployment:
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS))
        for victim in ("fetcher", "cacher", "nats", "postgres"):
            await until(partial(_more_calls, yahoo, len(yahoo.calls) + 60))
            part = getattr(deployment, victim, None) or deployment.services[victim]
            await part.kill()
            await asyncio.sleep(0.3)
            await part.start()
        await until(lambda: all_stored(deployment, 500))
        await until(lambda: _is(finished(deployment)))
        closed = await finished(deployment)
    assert closed is not None
    assert closed.planned == 500
    assert closed.counts.get("failed", 0) == 0
    assert sum(closed.counts.values()) == 500
    assert yahoo.most_in_any(1.0) <= 40


async def test_redis_down_for_the_whole_run_costs_not_one_stored_bar(tmp_path: Path, yahoo: PlayedYahoo):
    async with deployed(tmp_path, (), with_yahoo(yahoo)) as deployment:
        assert deployment.redis is not None
        await deployment.redis.kill()
        await asyncio.gather(deployment.start("fetcher"), deployment.start("cacher"))
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:60]))
        await until(lambda: all_stored(deployment, 60))
        await until(lambda: _is(finished(deployment)))


async def test_postgres_down_means_nothing_acknowledged_and_everything_stored_after(tmp_path: Path, yahoo: PlayedYahoo):
    async with deployed(tmp_path, ("fetcher", "cacher"), with_yahoo(yahoo)) as deployment:
        await deployment.postgres.kill()
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:40]))
        await until(lambda: _more_calls(yahoo, 40))
        await asyncio.sleep(1)
        info = await deployment.bus.js.consumer_info(subjects.PRICES, "cacher")
        assert (info.ack_floor.stream_seq if info.ack_floor else 0) == 0
        await deployment.postgres.start()
        await until(lambda: all_stored(deployment, 40))


async def test_a_fetcher_and_a_cacher_that_are_told_to_stop_in_the_middle_lose_and_repeat_nothing(
    tmp_path: Path, yahoo: PlayedYahoo
):
    environment = with_yahoo(yahoo) | {"QUOTEBUS_FETCHER__ACK_WAIT_S": "60", "QUOTEBUS_CACHER__ACK_WAIT_S": "60"}
    async with deployed(tmp_path, ("fetcher", "cacher"), environment) as deployment:
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:200]))
        await until(lambda: _more_calls(yahoo, 50))
        for name in ("fetcher", "cacher"):
            await deployment.services[name].stop(8)
            assert await deployment.services[name].ended() == 0, deployment.log(name)[-2000:]
            await deployment.start(name)
        # With an ack timeout of a minute, a stranded message would keep the run from ending within 30 s.
        await until(lambda: all_stored(deployment, 200), timeout_s=30)
        await until(lambda: _is(finished(deployment)), timeout_s=30)
    # A call that was under way when the fetcher stopped may be made again; one that had brought its event is not.
    assert len(yahoo.calls) <= 200 + 8


async def test_malformed_events_and_results_are_dead_letters_and_stop_no_consumer(tmp_path: Path, yahoo: PlayedYahoo):
    bad = {
        "price.bars.1d.BAD": b'{"type":"price_bars.v1","symbol":"BAD"}',
        "price.quote.BAD": b"not json",
        "run.result.-": b'{"type":"run_result.v1","run_id":7}',
        "run.planned.-": b"[]",
    }
    async with deployed(tmp_path, ("fetcher", "cacher"), with_yahoo(yahoo)) as deployment:
        for subject, body in bad.items():
            await deployment.bus.js.publish(subject, body)
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=SYMBOLS[:5]))
        await until(lambda: all_stored(deployment, 5))
        await until(lambda: _is(finished(deployment)))
        await until(lambda: _dead_letters(deployment, len(bad)))
        info = await deployment.bus.js.consumer_info(subjects.PRICES, "cacher")
        assert info.num_ack_pending == info.num_pending == 0


async def _more_calls(yahoo: PlayedYahoo, count: int) -> bool:
    return len(yahoo.calls) >= count


async def _dead_letters(deployment: Deployment, count: int) -> bool:
    return (await deployment.bus.js.stream_info(subjects.DEAD)).state.messages == count


async def _is(thing: object) -> bool:
    return (await thing) is not None  # type: ignore[misc]
