"""Implied volatility from the chain that is stored, on real servers: at no call, and never of an older chain than there is."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from contracts import subjects
from contracts.job import Job
from contracts.message import decode
from contracts.price_events import PriceBars, PriceIv
from contracts.refresh_ask import RefreshAsk
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished
from services.runtime.jetstream.topology import CACHER
from tests.cacher.events import chain, subject, volatility
from tests.connected.deployment import Deployment, deployed, until
from tests.connected.fetcher.fetcher_harness import stored
from tests.connected.scheduler.clocks import put

SYNTHETIC = {"QUOTEBUS_PROVIDERS__SYNTHETIC__ENABLED": "true", "QUOTEBUS_FETCHER__RISK_FREE_RATE": "0.04"}


@pytest.fixture(scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployed(tmp_path_factory.mktemp("derived"), ("fetcher", "cacher"), SYNTHETIC) as deployment:
        yield deployment


async def ask(deployment: Deployment, dataset: str, *symbols: str, **wanted: Any) -> dict[str, Any]:
    wish = RefreshAsk(symbols=list(symbols), dataset=dataset, timeout_s=20, **wanted)  # type: ignore[arg-type]
    reply = await deployment.bus.nc.request(subjects.REFRESH_ASK, msgspec.json.encode(wish), timeout=25)
    answer = msgspec.json.decode(reply.data)
    return {result["symbol"]: result for result in answer["outcomes"]}


async def told(deployment: Deployment, symbol: str) -> list[PriceIv]:
    return [decode(body, PriceIv) for body in await stored(deployment.bus, subjects.PRICES, subjects.price("iv", None, symbol))]


async def test_a_chain_becomes_volatility_in_every_store_at_no_call(deployment: Deployment) -> None:
    await ask(deployment, "chain", "AAPL")
    outcome = (await ask(deployment, "iv", "AAPL"))["AAPL"]
    assert (outcome["outcome"], outcome["provider"], outcome["rows"]) == ("refreshed", "derived", 6)
    [event] = await told(deployment, "AAPL")
    [row] = await deployment.rows("SELECT max(observed_at), max(at) AS at FROM price_chains WHERE underlying = 'AAPL'")
    assert (event.observed_at, event.at, event.feed, event.chain_provider) == (*row.values(), "synthetic", "synthetic")
    # What the made-up market priced its options with, of the call that is nearest to the money.
    for expiry, forward, iv in list(zip(event.expiry, event.forward, event.iv, strict=True))[2:]:
        [nearest] = await deployment.rows(
            """SELECT iv FROM price_chains WHERE underlying = 'AAPL' AND "right" = 'call' AND expiry = $1 AND iv IS NOT NULL
            ORDER BY abs(strike - $2) LIMIT 1""",
            expiry,
            forward,
        )
        assert iv == pytest.approx(nearest["iv"], abs=0.015)
    assert event.iv_30d is not None and min(filter(None, event.iv)) <= event.iv_30d <= max(filter(None, event.iv))
    assert (event.iv_rank, event.history_days) == (None, 0)

    async def is_stored() -> bool:
        rows = await deployment.rows("SELECT iv_30d, expiry, currency FROM price_iv WHERE symbol = 'AAPL'")
        return [(row["iv_30d"], row["expiry"], row["currency"]) for row in rows] == [(event.iv_30d, event.expiry, "USD")]

    await until(is_stored)
    assert deployment.redis is not None
    async with Redis.from_url(deployment.redis.url) as redis:
        document = msgspec.json.decode(await redis.get("quotebus:iv:AAPL"))
        assert (document["iv_30d"], document["real"]) == (event.iv_30d, 0)
        assert 1795 <= await redis.ttl("quotebus:iv:AAPL") <= 1800


async def test_what_has_no_chain_is_empty_and_shown_nowhere(deployment: Deployment) -> None:
    assert (await ask(deployment, "iv", "NOCHAIN"))["NOCHAIN"]["outcome"] == "empty"
    [event] = await told(deployment, "NOCHAIN")
    assert (event.iv_30d, event.expiry) == (None, [])
    # It is asked for again as soon as somebody wants it: it is no symbol that does not exist.
    assert (await ask(deployment, "iv", "NOCHAIN"))["NOCHAIN"]["outcome"] == "empty"
    assert await deployment.rows("SELECT FROM price_iv WHERE symbol = 'NOCHAIN'") == []


async def test_the_rank_is_of_the_days_before_of_the_same_feed(deployment: Deployment) -> None:
    await ask(deployment, "chain", "RANKED")
    now = datetime.now(UTC)
    for day in range(1, 31):
        await publish(deployment, volatility("RANKED", now - timedelta(days=day), 0.05 if day % 2 else 0.6, feed="synthetic"))
        await publish(deployment, volatility("RANKED", now - timedelta(days=day), 3.0, feed="opra"))
    await publish(deployment, volatility("RANKED", now - timedelta(days=370), 9.0, feed="synthetic"))
    await ask(deployment, "iv", "RANKED")
    event = (await told(deployment, "RANKED"))[-1]
    # The newest quote may be of the day before, whose own row is no day before it.
    assert event.history_days in (29, 30)
    assert event.iv_30d is not None and event.iv_rank == pytest.approx((event.iv_30d - 0.05) / 0.55)
    assert event.iv_percentile is not None and 0.48 < event.iv_percentile < 0.52


async def test_it_waits_for_the_chain_that_is_not_stored_yet(deployment: Deployment) -> None:
    await publish(deployment, chain("LATE"))
    await until(lambda: has_chain(deployment, 1.5))
    until_then = (datetime.now(UTC) + timedelta(seconds=2)).isoformat().replace("+00:00", "Z")
    await deployment.bus.js.pause_consumer(subjects.PRICES, CACHER, until_then)
    newer = chain("LATE", minute=5)
    await publish(deployment, newer)
    outcome = (await ask(deployment, "iv", "LATE"))["LATE"]
    [event] = await told(deployment, "LATE")
    assert event.observed_at == newer.observed_at, f"made of the chain before it: {outcome}"


async def test_a_job_that_follows_the_chains_has_their_volatility(deployment: Deployment) -> None:
    await deployment.start("scheduler")
    now = datetime.now(UTC)
    metrics = Job(id="metrics", symbols=["MSFT"], dataset="iv", after="chains", enabled_at=now)
    await put(deployment.bus, metrics, Job(id="chains", symbols=["MSFT"], dataset="chain", every_s=1, enabled_at=now))

    async def finished(job: str) -> list[RunFinished]:
        return [decode(body, RunFinished) for body in await stored(deployment.bus, subjects.RUNS, f"run.finished.{job}")]

    async def both() -> bool:
        return len(await finished("metrics")) >= 2

    await until(both)
    for run in await finished("metrics"):
        assert (run.counts, run.calls) == ({"refreshed": 1}, {})
    seen = await deployment.rows("SELECT observed_at FROM price_observations WHERE dataset = 'chain'")
    made_of = [event.observed_at for event in await told(deployment, "MSFT")]
    assert len(set(made_of)) >= 2 and set(made_of) <= {row["observed_at"] for row in seen}


async def test_while_postgres_is_down_it_is_tried_again_and_told_why(tmp_path: Path) -> None:
    async with deployed(tmp_path, ("fetcher",), SYNTHETIC, redis=False) as deployment:
        await deployment.postgres.kill()
        await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=["X"], dataset="iv"))

        async def tried() -> bool:
            letters = await stored(deployment.bus, subjects.DEAD, subjects.dead("server_error"))
            return any(b"derived: PostgreSQL cannot be read" in body for body in letters)

        await until(tried)


async def publish(deployment: Deployment, event: Any) -> None:
    await deployment.bus.publish(subject(event), event)


async def has_chain(deployment: Deployment, bid: float) -> bool:
    rows = await deployment.rows("SELECT bid FROM price_chains WHERE underlying = 'LATE'")
    return bool(rows) and rows[0]["bid"] == bid


async def test_minutes_and_days_become_the_longer_bars_that_the_market_itself_has(deployment: Deployment) -> None:
    today = datetime.now(UTC).date()
    days = {"start": today - timedelta(days=40), "end": today - timedelta(days=1)}
    minutes = {"start": today - timedelta(days=3), "end": today - timedelta(days=1)}
    for shorter, longer_one, span in (("1m", "5m", minutes), ("1m", "1h", minutes), ("1d", "1wk", days), ("1d", "1mo", days)):
        await ask(deployment, "bars", "BTC-USD", timeframe=shorter, **span)
        outcome = (await ask(deployment, "bars", "BTC-USD", timeframe=longer_one, provider="derived", **span))["BTC-USD"]
        assert (outcome["outcome"], outcome["provider"]) == ("refreshed", "derived")
        await ask(deployment, "bars", "BTC-USD", timeframe=longer_one, **span)
        subject = subjects.price("bars", longer_one, "BTC-USD")  # type: ignore[arg-type]
        made, own = [decode(body, PriceBars) for body in await stored(deployment.bus, subjects.PRICES, subject)]
        assert (made.provider, own.provider) == ("derived", "synthetic")
        assert (made.feed, made.basis, made.currency, made.asked_from, made.asked_to) == (
            own.feed, own.basis, own.currency, own.asked_from, own.asked_to,
        )  # fmt: skip
        known = dict(zip(own.at, zip(own.open, own.high, own.low, own.close, own.volume, strict=True), strict=True))
        assert made.at == [at for at in own.at if at in made.at] != []
        for at, *values in zip(made.at, made.open, made.high, made.low, made.close, made.volume, strict=True):
            # The last week and month are not over in what was asked for.
            assert tuple(values) == known[at] or at == own.at[-1], (longer_one, at)
        if longer_one in ("5m", "1h"):
            assert (made.at, made.final) == (own.at, [True] * len(own.at))


async def test_bars_are_derived_for_whoever_asks_for_it_by_name_and_from_what_is_there(deployment: Deployment) -> None:
    assert (await ask(deployment, "bars", "NOMINUTES", timeframe="5m"))["NOMINUTES"]["provider"] == "synthetic"
    outcome = (await ask(deployment, "bars", "NODAYS", timeframe="1wk", provider="derived"))["NODAYS"]
    assert (outcome["outcome"], outcome["rows"]) == ("empty", 0)
    await ask(deployment, "bars", "BTC-USD", timeframe="1m")
    outcome = (await ask(deployment, "bars", "BTC-USD", timeframe="30m", provider="derived"))["BTC-USD"]
    assert outcome["outcome"] == "refreshed"

    async def is_stored() -> bool:
        bars = await deployment.rows("SELECT final FROM price_bars WHERE symbol = 'BTC-USD' AND timeframe = '30m' ORDER BY at")
        # Of the newest 500 minutes at least; all but the last of them, or two around the half hour, are over.
        return len(bars) >= 16 and all(row["final"] for row in bars[:-2])

    await until(is_stored)
    refused = (await ask(deployment, "bars", "BTC-USD", timeframe="1d", provider="derived"))["BTC-USD"]
    assert (refused["outcome"], refused["reason"]) == ("failed", "provider: derived has no 1d bars")
