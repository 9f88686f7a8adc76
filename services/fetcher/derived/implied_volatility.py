"""Implied volatility from stored option chains: 30-day interpolation, and its rank within a year."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from lets_be_rational import implied_volatility_from_a_transformed_rational_guess as black_volatility
from lets_be_rational import norm_cdf
from lets_be_rational.exceptions import VolatilityValueException

from contracts.price_events import PriceIv
from services.fetcher.adapter.events import Contract
from services.fetcher.adapter.fields import NEW_YORK
from services.runtime.prices.document import ChainDocument

HORIZON_DAYS = 30
# Where no two expirations lie around the horizon, one so near to it speaks for it alone.
NEAR_DAYS = 7
MIN_HISTORY_DAYS = 20
_LOWEST, _HIGHEST = 0.005, 10.0
# Of further distance than this, two options say nothing about the one between them.
_WIDEST_DELTA = 0.4
_NEW_YORK = ZoneInfo(NEW_YORK)
_CLOSE = time(16)
_YEAR = timedelta(days=365)
_HORIZON = timedelta(days=HORIZON_DAYS)


class Smile(NamedTuple):
    """One expiration: `years` until then, the volatility at the money and of the 25-delta put and call. None: not to be told."""

    expiry: date
    years: float
    forward: float | None
    iv: float | None
    put_25d: float | None
    call_25d: float | None
    contracts: int


class IvRank(NamedTuple):
    """Rank and percentile of a volatility among those of the days before it; None while they are too few."""

    rank: float | None
    percentile: float | None


class _Vol(NamedTuple):
    """Implied volatility of one option: `delta` is a call's (of a put, that of the call at its strike)."""

    delta: float
    iv: float


def smiles(contracts: Iterable[Contract], at: datetime, rate: float) -> list[Smile]:
    """Each expiration that lies after `at`, in order. `rate`: interest without risk, a year's, continuous."""
    chain: dict[date, list[Contract]] = defaultdict(list)
    for contract in contracts:
        chain[contract.expiry].append(contract)
    found = []
    for expiry in sorted(chain):
        years = (datetime.combine(expiry, _CLOSE, _NEW_YORK).astimezone(UTC) - at) / _YEAR
        if years > 0:
            found.append(_smile(expiry, chain[expiry], years, rate))
    return found


def interpolate_30d(points: Sequence[tuple[float, float | None]]) -> float | None:
    """The volatility at the horizon out of those of several expirations, (years, volatility) in order of time.

    Between the two around it the variance grows evenly. None where there are none around it and none near it.
    """
    known = [(years, iv) for years, iv in points if iv is not None]
    horizon = _HORIZON / _YEAR
    for (years, iv), (later, then) in pairwise(known):
        if years <= horizon <= later:
            share = (horizon - years) / (later - years)
            return math.sqrt((iv * iv * years * (1 - share) + then * then * later * share) / horizon)
    nearest = min(known, key=lambda point: abs(point[0] - horizon), default=None)
    near = timedelta(days=NEAR_DAYS) / _YEAR
    return nearest[1] if nearest is not None and abs(nearest[0] - horizon) <= near else None


def rank(iv: float | None, before: Sequence[float]) -> IvRank:
    """The rank and percentile of a volatility among those of the days before, one a day."""
    if iv is None or len(before) < MIN_HISTORY_DAYS:
        return IvRank(None, None)
    least, most = min(*before, iv), max(*before, iv)
    rank = (iv - least) / (most - least) if most > least else None
    return IvRank(rank, sum(each < iv for each in before) / len(before))


def _smile(expiry: date, contracts: Sequence[Contract], years: float, rate: float) -> Smile:
    # Of two of one strike and right, a class that was adjusted for a merger, say, the one that people hold.
    held = sorted(contracts, key=lambda contract: contract.open_interest or 0)
    calls = {contract.strike: contract for contract in held if contract.right == "call"}
    puts = {contract.strike: contract for contract in held if contract.right == "put"}
    growth = math.exp(rate * years)
    forward = _forward(calls, puts, growth)
    told = sorted(_vols(calls, puts, forward, growth, years))
    return Smile(expiry, years, forward, _at(told, 0.5), _at(told, 0.75), _at(told, 0.25), len(told))


def _forward(calls: Mapping[float, Contract], puts: Mapping[float, Contract], growth: float) -> float | None:
    """The forward price by put and call of the strike where they are worth most alike."""
    worth = [(strike, _worth(calls[strike]), _worth(puts[strike])) for strike in calls.keys() & puts.keys()]
    gaps = [(abs(call - put), strike, call - put) for strike, call, put in worth if call is not None and put is not None]
    if not gaps:
        return None
    _, strike, gap = min(gaps)
    forward = strike + growth * gap
    return forward if forward > 0 else None


def _vols(
    calls: Mapping[float, Contract], puts: Mapping[float, Contract], forward: float | None, growth: float, years: float
) -> Iterator[_Vol]:
    for side, sign in ((calls, 1), (puts, -1)):
        for contract in side.values():
            if forward is None:
                yield from _vendor_iv(contract, sign)
            elif sign * (contract.strike - forward) >= 0:
                yield from _solved(contract, sign, forward, growth, years) or _vendor_iv(contract, sign)


def _solved(contract: Contract, sign: int, forward: float, growth: float, years: float) -> list[_Vol]:
    worth = _worth(contract)
    if worth is None:
        return []
    try:
        iv = black_volatility(worth * growth, forward, contract.strike, years, sign)
    except (VolatilityValueException, ArithmeticError, ValueError):
        return []  # no volatility gives this price
    if not _LOWEST <= iv <= _HIGHEST:
        return []
    d1 = math.log(forward / contract.strike) / (iv * math.sqrt(years)) + iv * math.sqrt(years) / 2
    return [_Vol(norm_cdf(d1), iv)]


def _vendor_iv(contract: Contract, sign: int) -> list[_Vol]:
    iv, delta = contract.iv, contract.delta
    if iv is None or delta is None or not _LOWEST <= iv <= _HIGHEST or not 0 < abs(delta) < 1:
        return []
    return [_Vol(delta if sign > 0 else 1 + delta, iv)] if abs(delta) <= 0.5 else []


def _worth(contract: Contract) -> float | None:
    bid, ask = contract.bid, contract.ask
    if bid and ask and 0 < bid <= ask:
        return (bid + ask) / 2
    return contract.mark if contract.mark and contract.mark > 0 else None


def _at(told: Sequence[_Vol], delta: float) -> float | None:
    """The volatility at a call's delta, on the line between the two options around it."""
    right = bisect_left(told, delta, key=lambda each: each.delta)
    if right < len(told) and told[right].delta == delta:
        return told[right].iv
    if not 0 < right < len(told):
        return None
    below, above = told[right - 1], told[right]
    width = above.delta - below.delta
    if width > _WIDEST_DELTA:
        return None
    return below.iv + (above.iv - below.iv) * (delta - below.delta) / width


def iv_of(chain: ChainDocument, provider: str, rate: float, now: datetime) -> PriceIv:
    """The volatility that a chain tells, without its rank. `rate`: interest without risk, a year's."""
    as_of = datetime.fromisoformat(chain.as_of)
    # On a Sunday the quotes are Friday's, with two days more to live.
    at = max(filter(None, chain.at), default=None)
    found = smiles(_contracts(chain), at or as_of, rate)
    puts, calls = (interpolate_30d([(s.years, getattr(s, side)) for s in found]) for side in ("put_25d", "call_25d"))
    told = [smile for smile in found if smile.contracts]
    return PriceIv(
        symbol=chain.symbol,
        provider=provider,
        chain_provider=chain.provider,
        feed=chain.feed,
        currency=chain.currency,
        observed_at=as_of,
        fetched_at=now,
        at=at,
        iv_30d=interpolate_30d([(smile.years, smile.iv) for smile in found]),
        skew_25d=None if puts is None or calls is None else puts - calls,
        expiry=[smile.expiry for smile in told],
        forward=[smile.forward for smile in told],
        iv=[smile.iv for smile in told],
        contracts=[smile.contracts for smile in told],
    )


def no_iv(symbol: str, provider: str, now: datetime) -> PriceIv:
    """The volatility of what has no chain to tell it."""
    return PriceIv(
        symbol=symbol,
        provider=provider,
        feed=provider,
        observed_at=now,
        fetched_at=now,
        expiry=[],
        forward=[],
        iv=[],
        contracts=[],
    )


def with_rank(event: PriceIv, before: Sequence[float]) -> PriceIv:
    """The event with how its volatility stands among those of the days before."""
    place = rank(event.iv_30d, before)
    return msgspec.structs.replace(event, iv_rank=place.rank, iv_percentile=place.percentile, history_days=len(before))


def _contracts(chain: ChainDocument) -> Iterator[Contract]:
    expiries = [date.fromisoformat(expiry) for expiry in chain.expiry]
    columns = {name: getattr(chain, name) for name in Contract._fields} | {"expiry": expiries}
    return map(Contract._make, zip(*columns.values(), strict=True))
