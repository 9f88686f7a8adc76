"""Events for the cacher's tests, and a reader for them."""

from datetime import UTC, datetime, timedelta

import msgspec

from contracts import subjects
from contracts.message import Message, encode
from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceIv, PriceQuarantined, PriceQuote
from services.cacher.decode_event import DecodedEvent, EventDecoder

DAY = timedelta(days=1)
FIRST = datetime(2024, 1, 2, tzinfo=UTC)
NOON = datetime(2024, 3, 4, 12, tzinfo=UTC)


def bars(symbol: str = "AAPL", closes: tuple[float, ...] = (10.0, 11.0, 12.0), *, minute: float = 0, **other: object) -> PriceBars:
    """Daily bars from FIRST on, each a dollar high, seen `minute` minutes after NOON."""
    seen = NOON + timedelta(minutes=minute)
    fields: dict[str, object] = {
        "symbol": symbol,
        "provider": "yahoo",
        "feed": "delayed",
        "observed_at": seen,
        "fetched_at": seen,
        "currency": "USD",
        "timeframe": "1d",
        "basis": "split",
        "at": [FIRST + DAY * n for n in range(len(closes))],
        "open": list(closes),
        "high": [close + 0.5 for close in closes],
        "low": [close - 0.5 for close in closes],
        "close": list(closes),
        "volume": [1000.0] * len(closes),
        "final": [True] * len(closes),
    }
    return PriceBars(**(fields | other))  # type: ignore[arg-type]


def quote(symbol: str = "AAPL", price: float = 10.0, *, minute: float = 0, **other: object) -> PriceQuote:
    """A quote seen `minute` minutes after NOON."""
    seen = NOON + timedelta(minutes=minute)
    event = PriceQuote(
        symbol=symbol, provider="yahoo", feed="delayed", observed_at=seen, fetched_at=seen, currency="USD", price=price
    )
    return msgspec.structs.replace(event, **other)


def chain(symbol: str = "AAPL", strikes: tuple[float, ...] = (100.0, 110.0), *, minute: float = 0) -> PriceChain:
    """A chain of calls of one expiry."""
    seen, n = NOON + timedelta(minutes=minute), len(strikes)
    return PriceChain(
        symbol=symbol,
        provider="cboe",
        feed="delayed",
        observed_at=seen,
        fetched_at=seen,
        currency="USD",
        contract=[f"{symbol}240621C{strike:08.0f}" for strike in strikes],
        expiry=[datetime(2024, 6, 21, tzinfo=UTC).date()] * n,
        strike=list(strikes),
        right=["call"] * n,
        bid=[1.5 + minute] * n,
        ask=[None] * n,
        last=[None] * n,
        mark=[None] * n,
        volume=[3.0] * n,
        open_interest=[7.0] * n,
        iv=[0.25] * n,
        delta=[0.5] * n,
        gamma=[None] * n,
        theta=[None] * n,
        vega=[None] * n,
        at=[None] * n,
    )


def actions(symbol: str = "AAPL", amount: float = 0.24, *, minute: float = 0) -> PriceActions:
    """A split, and two dividends on one day."""
    seen = NOON + timedelta(minutes=minute)
    return PriceActions(
        symbol=symbol,
        provider="yahoo",
        feed="delayed",
        observed_at=seen,
        fetched_at=seen,
        currency="USD",
        date=[FIRST.date(), (FIRST + DAY).date(), (FIRST + DAY).date()],
        kind=["split", "dividend", "dividend"],
        ratio=[4.0, None, None],
        amount=[None, amount, 1.0],
    )


def volatility(symbol: str = "AAPL", at: datetime = NOON, iv_30d: float | None = 0.25, **other: object) -> PriceIv:
    """The volatility as of then, of one expiration a month later."""
    event = PriceIv(
        symbol=symbol,
        provider="derived",
        chain_provider="cboe",
        feed="delayed",
        observed_at=at,
        fetched_at=at,
        currency="USD",
        at=at,
        iv_30d=iv_30d,
        expiry=[(at + 30 * DAY).date()],
        forward=[100.0],
        iv=[iv_30d],
        contracts=[20],
    )
    return msgspec.structs.replace(event, **other)


def quarantined(symbol: str = "AAPL") -> PriceQuarantined:
    """Two rows that were not good enough."""
    return PriceQuarantined(
        symbol=symbol,
        provider="yahoo",
        feed="delayed",
        observed_at=NOON,
        fetched_at=NOON,
        dataset="bars",
        timeframe="1d",
        at=[FIRST, None],
        rule=["low above high", "no instant"],
        row=['{"low": 3, "high": 2}', '{"low": "\0"}'],
    )


def subject(event: Message) -> str:
    """Where the event is published."""
    match event:
        case PriceBars():
            return subjects.price("bars", event.timeframe, event.symbol)
        case PriceQuote():
            return subjects.price("quote", None, event.symbol)
        case PriceChain():
            return subjects.price("chain", None, event.symbol)
        case PriceActions():
            return subjects.price("actions", None, event.symbol)
        case PriceIv():
            return subjects.price("iv", None, event.symbol)
        case PriceQuarantined():
            return subjects.price_quarantined(event.symbol)
        case _:
            raise AssertionError(event)


def read(*events: Message) -> list[DecodedEvent | PriceQuarantined]:
    """The events as the cacher reads them from the bus."""
    reader = EventDecoder()
    found = [reader.decode(subject(event), encode(event)) for event in events]
    return [each for each in found if each is not None]
