"""Options on a made-up share: expirations, strikes, a smile of volatilities, and what Black and Scholes make of them."""

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from services.fetcher.providers.synthetic.noise import chance
from services.fetcher.rows import Contract, Spot

WEEKS = (0, 1, 2, 4, 8, 26)  # after the next Friday
STRIKES = 10  # on either side of the price
RATE = 0.04
YEAR = 365.0
DEAD_SHARE = 0.05  # so many contracts have no quote
_DAY = timedelta(days=1)


def chain_of(symbol: str, spot: Spot, key: int) -> list[Contract]:
    """The contracts in order of expiration, strike and right. Greeks: theta a day, vega a percent of volatility."""
    if spot.price is None or spot.at is None:
        return []
    today = spot.at.astimezone(UTC).date()
    friday = today + (4 - today.weekday()) % 7 * _DAY
    step = _step(spot.price)
    middle = round(spot.price / step)
    strikes = [step * n for n in range(max(1, middle - STRIKES), middle + STRIKES + 1)]
    return [
        contract
        for weeks in WEEKS
        for strike in strikes
        for contract in _pair(symbol, spot.price, spot.at, friday + 7 * weeks * _DAY, round(strike, 3), key)
    ]


def option_name(symbol: str, expiry: date, right: str, strike: float) -> str:
    """The contract's name of 15 characters and the root, as in AAPL251219C00200000."""
    return f"{symbol.replace('.', '').replace('-', '')}{expiry:%y%m%d}{right[0].upper()}{round(strike * 1000):08d}"


def _step(price: float) -> float:
    """A round distance of strikes, about a fiftieth of the price."""
    rough = price / 50
    size: float = 10.0 ** math.floor(math.log10(rough))
    return next(size * n for n in (1, 2.5, 5, 10) if size * n >= rough)


def _pair(symbol: str, price: float, at: datetime, expiry: date, strike: float, key: int) -> Iterator[Contract]:
    sides: tuple[Literal["call", "put"], ...] = ("call", "put")
    for right in sides:
        name = option_name(symbol, expiry, right, strike)
        empty = Contract(name, expiry, strike, right, volume=0.0, open_interest=0.0)
        drawn = chance(f"{key} {name}")
        priced = None if drawn < DEAD_SHARE else _priced(empty, price, at, drawn)
        yield priced or empty


def _priced(contract: Contract, price: float, at: datetime, drawn: float) -> Contract | None:
    """None for what is worth less than a cent."""
    years = max((contract.expiry - at.astimezone(UTC).date()).days, 0.5) / YEAR
    iv = round(0.22 + 0.1 * drawn + 0.8 * math.log(contract.strike / price) ** 2, 4)
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
        at=at,
    )


def _normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2
