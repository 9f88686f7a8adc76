"""Options on a made-up share: expirations, strikes, a smile of volatilities, and what Black and Scholes make of them."""

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Literal, NamedTuple

from services.fetcher.adapter.events import Contract, Quote
from services.fetcher.providers.synthetic.seeded_random import chance

WEEKS = (0, 1, 2, 4, 8, 26)  # after the next Friday
STRIKES = 10  # on either side of the price
RATE = 0.04
YEAR = 365.0
DEAD_SHARE = 0.05  # so many contracts have no quote
_DAY = timedelta(days=1)


class _Share(NamedTuple):
    symbol: str
    key: int
    price: float
    at: datetime


def chain_of(symbol: str, quote: Quote, key: int) -> list[Contract]:
    """Return the contracts in order of expiration, strike and right. Greeks: theta a day, vega a percent of volatility."""
    if quote.price is None or quote.at is None:
        return []
    share = _Share(symbol, key, quote.price, quote.at)
    today = quote.at.astimezone(UTC).date()
    friday = today + (4 - today.weekday()) % 7 * _DAY
    step = _step(quote.price)
    middle = round(quote.price / step)
    strikes = [round(step * n, 3) for n in range(max(1, middle - STRIKES), middle + STRIKES + 1)]
    # A share has its own volatility, another one each day and for each expiration; a put and a call have the same.
    level = 0.18 + 0.2 * chance(f"{key} volatility") + 0.06 * chance(f"{key} volatility {today}")
    found: list[Contract] = []
    for expiry in (friday + 7 * weeks * _DAY for weeks in WEEKS):
        own = level + 0.03 * chance(f"{key} volatility {today} {expiry}")
        for strike in strikes:
            away = math.log(strike / quote.price)
            found += _pair(share, expiry, strike, round(own - 0.15 * away + 0.8 * away * away, 4))
    return found


def option_name(symbol: str, expiry: date, right: str, strike: float) -> str:
    """Return the contract's name of 15 characters and the root, as in AAPL251219C00200000."""
    return f"{symbol.replace('.', '').replace('-', '')}{expiry:%y%m%d}{right[0].upper()}{round(strike * 1000):08d}"


def _step(price: float) -> float:
    """Return a round distance of strikes, about a fiftieth of the price."""
    rough = price / 50
    size: float = 10.0 ** math.floor(math.log10(rough))
    return next(size * n for n in (1, 2.5, 5, 10) if size * n >= rough)


def _pair(share: _Share, expiry: date, strike: float, iv: float) -> Iterator[Contract]:
    sides: tuple[Literal["call", "put"], ...] = ("call", "put")
    for right in sides:
        name = option_name(share.symbol, expiry, right, strike)
        empty = Contract(name, expiry, strike, right, volume=0.0, open_interest=0.0)
        drawn = chance(f"{share.key} {name}")
        yield empty if drawn < DEAD_SHARE else _priced(empty, share, iv, drawn) or empty


def _priced(contract: Contract, share: _Share, iv: float, drawn: float) -> Contract | None:
    """None for what is worth less than a cent."""
    price = share.price
    years = max((contract.expiry - share.at.astimezone(UTC).date()).days, 0.5) / YEAR
    sign, spread = (1, 0.02) if contract.right == "call" else (-1, 0.02)
    deviation = iv * math.sqrt(years)
    d1 = (math.log(price / contract.strike) + (RATE + iv * iv / 2) * years) / deviation
    d2, discounted = d1 - deviation, contract.strike * math.exp(-RATE * years)
    worth = sign * (price * _normal(sign * d1) - discounted * _normal(sign * d2))
    bid, ask = math.floor(worth * (1 - spread) * 100) / 100, math.ceil(worth * (1 + spread) * 100) / 100
    if bid < 0.01:
        return None
    density = math.exp(-d1 * d1 / 2) / math.sqrt(2 * math.pi)
    decay = -price * density * iv / (2 * math.sqrt(years)) - sign * RATE * discounted * _normal(sign * d2)
    return contract._replace(
        bid=bid,
        ask=ask,
        last=round(worth, 2) or bid,
        mark=round((bid + ask) / 2, 3),
        volume=float(int(drawn * 5000)),
        open_interest=float(100 + int(drawn * 20000)),
        iv=iv,
        delta=round(sign * _normal(sign * d1), 5),
        gamma=round(density / (price * deviation), 6),
        theta=round(decay / YEAR, 5),
        vega=round(price * density * math.sqrt(years) / 100, 5),
        at=share.at,
    )


def _normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2
