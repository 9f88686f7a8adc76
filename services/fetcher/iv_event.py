"""From an option chain to the event of its implied volatility."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime

import msgspec

from contracts.price_events import PriceIv
from services.fetcher.adapter.events import Contract
from services.fetcher.implied_volatility import ahead, smiles, standing
from services.runtime.prices.document import ChainDocument


def iv_of(chain: ChainDocument, provider: str, rate: float, now: datetime) -> PriceIv:
    """The volatility that a chain tells, without its rank. `rate`: interest without risk, a year's."""
    as_of = datetime.fromisoformat(chain.as_of)
    # On a Sunday the quotes are Friday's, with two days more to live.
    at = max(filter(None, chain.at), default=None)
    found = smiles(_contracts(chain), at or as_of, rate)
    puts, calls = (ahead([(s.years, getattr(s, side)) for s in found]) for side in ("put_25d", "call_25d"))
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
        iv_30d=ahead([(smile.years, smile.iv) for smile in found]),
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


def ranked(event: PriceIv, before: Sequence[float]) -> PriceIv:
    """The event with how its volatility stands among those of the days before."""
    place = standing(event.iv_30d, before)
    return msgspec.structs.replace(event, iv_rank=place.rank, iv_percentile=place.percentile, history_days=len(before))


def _contracts(chain: ChainDocument) -> Iterator[Contract]:
    expiries = [date.fromisoformat(expiry) for expiry in chain.expiry]
    columns = {name: getattr(chain, name) for name in Contract._fields} | {"expiry": expiries}
    return map(Contract._make, zip(*columns.values(), strict=True))
