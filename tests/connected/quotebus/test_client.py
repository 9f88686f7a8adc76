"""The client against a real NATS: what a subscriber sees, also when the server dies, and what it is told when nothing is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from contracts import subjects
from contracts.message import decode, encode
from contracts.price_events import PriceBars, PriceQuote
from contracts.refresh_ask import RefreshAnswer, RefreshAsk, SymbolOutcome
from contracts.refresh_request import RefreshRequest
from quotebus import client
from quotebus.client import AnyPrice, Client, ClientError
from quotebus.embedded import NatsServer, free_port

NOW = datetime(2024, 3, 4, 15, 30, tzinfo=UTC)


@pytest.fixture
async def qb(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A client of a server that has the prices' and the requests' streams."""
    async with client.connect(nats_server.url) as connected:
        for name in (subjects.PRICES, subjects.REFRESH):
            config = StreamConfig(name=name, subjects=subjects.STREAM_SUBJECTS[name], allow_direct=True)
            await connected.js.add_stream(config)
        yield connected


def quote(symbol: str, price: float) -> PriceQuote:
    return PriceQuote(symbol=symbol, provider="synthetic", feed="synthetic", observed_at=NOW, fetched_at=NOW, price=price)


async def publish(qb: Client, *quotes: PriceQuote) -> None:
    for each in quotes:
        await qb.js.publish(subjects.price("quote", None, each.symbol), encode(each))


async def take(qb: Client, count: int, pattern: str = "quote.*", since: datetime | None = None) -> list[AnyPrice]:
    found: list[AnyPrice] = []
    async with asyncio.timeout(20), aclosing(qb.prices(pattern, since=since)) as events:
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_a_subscriber_gets_the_last_of_every_symbol_and_then_what_comes(qb: Client) -> None:
    await publish(qb, quote("AAPL", 1.0), quote("MSFT", 2.0), quote("AAPL", 3.0))
    taking = asyncio.create_task(take(qb, 3))
    await publish_when_taken(qb, quote("BRK.B", 4.0))
    assert [e.symbol for e in await taking if isinstance(e, PriceQuote)] == ["MSFT", "AAPL", "BRK.B"]
    assert [e.price for e in taking.result() if isinstance(e, PriceQuote)] == [2.0, 3.0, 4.0]


async def publish_when_taken(qb: Client, event: PriceQuote) -> None:
    while not await qb.js.consumers_info(subjects.PRICES):
        await asyncio.sleep(0.02)
    await publish(qb, event)


async def test_since_replays_what_was_stored_from_an_instant_on(qb: Client) -> None:
    await publish(qb, quote("AAPL", 1.0))
    stored = await qb.js.get_last_msg(subjects.PRICES, "price.quote.AAPL")
    await asyncio.sleep(0.01)
    await publish(qb, quote("AAPL", 2.0), quote("AAPL", 3.0))
    everything = await take(qb, 3, since=stored.time)
    assert [e.price for e in everything if isinstance(e, PriceQuote)] == [1.0, 2.0, 3.0]
    second = await qb.js.get_msg(subjects.PRICES, stored.seq + 1 if stored.seq else 0)
    assert [e.price for e in await take(qb, 2, since=second.time) if isinstance(e, PriceQuote)] == [2.0, 3.0]


async def test_a_subscriber_outlives_the_server_and_misses_nothing(qb: Client, nats_server: NatsServer) -> None:
    await publish(qb, quote("AAPL", 0.0))
    taking = asyncio.create_task(take(qb, 3))
    await publish_when_taken(qb, quote("AAPL", 1.0))
    await nats_server.kill()
    await nats_server.start()
    async with client.connect(nats_server.url) as another:
        await publish(another, quote("AAPL", 2.0))
    assert [e.price for e in await taking if isinstance(e, PriceQuote)][-2:] == [1.0, 2.0]


async def test_a_malformed_event_is_left_out(qb: Client, caplog: pytest.LogCaptureFixture) -> None:
    await qb.js.publish("price.quote.AAPL", b'{"type": "price_quote.v1", "symbol": 7}')
    await publish(qb, quote("MSFT", 2.0))
    assert [event.symbol for event in await take(qb, 1, since=datetime(2024, 1, 1, tzinfo=UTC))] == ["MSFT"]
    assert "left out an event" in caplog.text


async def test_a_pattern_may_name_a_symbol_with_its_dots(qb: Client) -> None:
    await publish(qb, quote("BRK.B", 4.0), quote("BRK.A", 5.0))
    for pattern in ("BRK.B", "quote.BRK.B", "quote.BRK_B", "price.quote.BRK_B"):
        assert [event.symbol for event in await take(qb, 1, pattern)] == ["BRK.B"]


async def test_the_last_event_of_a_symbol_is_known_or_none(qb: Client) -> None:
    bars = PriceBars(
        symbol="AAPL", provider="synthetic", feed="synthetic", observed_at=NOW, fetched_at=NOW, timeframe="1d", basis="raw",
        at=[datetime(2024, 3, 4, tzinfo=UTC)], open=[1.0], high=[2.0], low=[0.5], close=[1.5], volume=[None], final=[True],
    )  # fmt: skip
    await qb.js.publish("price.bars.1d.AAPL", encode(bars))
    assert await qb.last("AAPL", "1d") == bars
    assert await qb.last("AAPL") is None
    frame = client.to_df(bars)
    assert list(frame["close"]) == [1.5]
    assert frame["symbol"][0] == "AAPL"


async def test_a_refresh_is_answered_by_symbol(qb: Client) -> None:
    asked: list[RefreshAsk] = []

    async def answer(message: Msg) -> None:
        asked.append(decode(message.data, RefreshAsk))
        outcomes = [SymbolOutcome(symbol=symbol, outcome="refreshed", rows=1) for symbol in asked[-1].symbols]
        await message.respond(encode(RefreshAnswer(request_id="r1", outcomes=outcomes)))

    await qb.nc.subscribe(subjects.REFRESH_ASK, cb=answer)
    answered = await qb.refresh(["AAPL", "BRK.B"])
    assert [outcome.symbol for outcome in answered.outcomes] == ["AAPL", "BRK.B"]
    assert asked[0].symbols == ["AAPL", "BRK.B"]


async def test_a_refused_refresh_says_why(qb: Client) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(encode(RefreshAnswer(error="no such provider: yahu")))

    await qb.nc.subscribe(subjects.REFRESH_ASK, cb=answer)
    with pytest.raises(ClientError, match="no such provider: yahu"):
        await qb.refresh(["AAPL"])


async def test_without_a_fetcher_a_refresh_says_how_to_start_one(qb: Client) -> None:
    with pytest.raises(ClientError, match=r"no fetcher is listening on refresh\.ask: start it with `quotebus up`"):
        await qb.refresh(["AAPL"])


async def test_a_request_is_stored_under_its_id(qb: Client) -> None:
    request_id = await qb.request_refresh(RefreshRequest(symbols=["AAPL"], dataset="quote"))
    stored = await qb.js.get_last_msg(subjects.REFRESH, "refresh.request.manual")
    assert decode(stored.data or b"", RefreshRequest).request_id == request_id
    assert (stored.headers or {})["Nats-Msg-Id"] == request_id
    assert await qb.request_refresh(RefreshRequest(symbols=["AAPL"], request_id=request_id)) == request_id
    assert (await qb.js.stream_info(subjects.REFRESH)).state.messages == 1


async def test_without_streams_it_says_to_migrate(nats_url: str) -> None:
    async with client.connect(nats_url) as qb:
        with pytest.raises(ClientError, match="run `quotebus migrate`"):
            await take(qb, 1)
        with pytest.raises(ClientError, match="run `quotebus migrate`"):
            await qb.request_refresh(["AAPL"])
        with pytest.raises(ClientError, match="run `quotebus migrate`"):
            await qb.last("AAPL")


async def test_without_a_server_it_says_so_at_once() -> None:
    with pytest.raises(ClientError, match=r"no NATS at nats://127\.0\.0\.1:\d+: .*refused"):
        async with client.connect(f"nats://127.0.0.1:{free_port()}"):
            pass
