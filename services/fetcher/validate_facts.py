"""Which quotes, option contracts and corporate actions may be published: pure rules, as `validate.py` has them for bars."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import TypeVar

import msgspec

from contracts.price_events import PriceActions, PriceChain, PriceIv, PriceQuote
from services.fetcher.adapter.events import DAY_SLACK
from services.fetcher.validate import HIGHEST_PRICE, LARGEST_VOLUME, Broken, may_be_negative

Facts = PriceQuote | PriceChain | PriceActions | PriceIv
E = TypeVar("E", PriceChain, PriceActions)

LONGEST_NAME = 64
LONGEST_EXPIRED = timedelta(days=7)  # a chain may still hold what expired last week
LARGEST_IV = 100.0  # ten thousand per cent
LARGEST_GREEK = 1e6
NO_GREEK = frozenset({-999.0, -999.99})  # what vendors write where they know none
LARGEST_RATIO = 1e5
_PRICES = ("bid", "ask", "last", "mark")
_GREEKS = ("delta", "gamma", "theta", "vega")
_CHAIN = ("contract", "expiry", "strike", "right", *_PRICES, "volume", "open_interest", "iv", *_GREEKS, "at")
_ACTIONS = ("date", "kind", "ratio", "amount")
_QUOTE = ("at", "price", "bid", "ask", "previous_close", "volume")


def validate_facts(event: Facts, now: datetime) -> tuple[Facts, list[Broken]]:
    """The event without the rows that break a rule, and those rows. A quote is one row, and without it an empty event."""
    match event:
        case PriceChain():
            return _kept(event, _CHAIN, lambda i: _contract_rule(event, i, now))
        case PriceActions():
            return _kept(event, _ACTIONS, lambda i: _action_rule(event, i))
        case PriceIv():
            return event, []  # made here, of what was validated
        case _:
            rule = _quote_rule(event, now)
            nothing = msgspec.structs.replace(event, **dict.fromkeys(_QUOTE))
            return (nothing, [(event.at, rule, _text(event, _QUOTE, None))]) if rule else (event, [])


def _quote_rule(quote: PriceQuote, now: datetime) -> str:
    prices = (quote.price, quote.bid, quote.ask, quote.previous_close)
    return _price_rule(prices, negative=may_be_negative(quote.symbol)) or _count_rule((quote.volume,)) or _time_rule(quote.at, now)


def _contract_rule(chain: PriceChain, i: int, now: datetime) -> str:
    name = chain.contract[i]
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        return "contract_without_name"
    if not now.date() - LONGEST_EXPIRED <= chain.expiry[i] <= now.date() + timedelta(days=36600):
        return "expiry_out_of_range"
    iv, greeks = chain.iv[i], [getattr(chain, column)[i] for column in _GREEKS]
    if iv is not None and not 0 < iv <= LARGEST_IV:
        return "iv_out_of_range"
    if not all(abs(greek) <= LARGEST_GREEK and greek not in NO_GREEK for greek in greeks if greek is not None):
        return "greek_out_of_range"
    prices = (chain.strike[i], *(getattr(chain, column)[i] for column in _PRICES))
    counts = (chain.volume[i], chain.open_interest[i])
    return _price_rule(prices) or _count_rule(counts) or _time_rule(chain.at[i], now)


def _action_rule(actions: PriceActions, i: int) -> str:
    ratio = actions.ratio[i]
    if ratio is not None and not 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO:
        return "ratio_out_of_range"
    return _price_rule((actions.amount[i],))


def _price_rule(prices: Sequence[float | None], *, negative: bool = False) -> str:
    known = [value for value in prices if value is not None]
    if not all(map(isfinite, known)):
        return "not_finite"
    if not negative and any(value <= 0 for value in known):
        return "price_not_positive"
    return "price_absurd" if any(abs(value) >= HIGHEST_PRICE for value in known) else ""


def _count_rule(counts: Sequence[float | None]) -> str:
    known = [value for value in counts if value is not None]
    if not all(map(isfinite, known)):
        return "not_finite"
    if any(value < 0 for value in known):
        return "negative_volume"
    return "volume_absurd" if any(value >= LARGEST_VOLUME for value in known) else ""


def _time_rule(at: datetime | None, now: datetime) -> str:
    return "in_the_future" if at is not None and at > now + DAY_SLACK else ""


def _kept(event: E, columns: Sequence[str], rule_of: Callable[[int], str]) -> tuple[E, list[Broken]]:
    rows = len(getattr(event, columns[0]))
    broken = {i: rule for i in range(rows) if (rule := rule_of(i))}
    if not broken:
        return event, []
    kept = {name: [value for i, value in enumerate(getattr(event, name)) if i not in broken] for name in columns}
    instants = event.at if isinstance(event, PriceChain) else [None] * rows
    quarantined = [(instants[i], rule, _text(event, columns, i)) for i, rule in broken.items()]
    return msgspec.structs.replace(event, **kept), quarantined


def _text(event: Facts, columns: Sequence[str], i: int | None) -> str:
    """A row, or with no `i` the fields themselves, as JSON."""
    row = {name: value if i is None else value[i] for name in columns for value in (getattr(event, name),)}
    return msgspec.json.encode(row).decode()
