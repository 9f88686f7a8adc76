"""What must hold of every answer, however bad the body was that it was made of."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from math import isfinite

import msgspec

from contracts import subjects
from contracts.price_events import Column, PriceActions, PriceBars, PriceChain, PriceEvent, PriceQuote
from services.cacher.decode_event import EventDecoder, MalformedEventError
from services.fetcher.calls.validation import HIGHEST_PRICE, LARGEST_VOLUME, may_be_negative, validate, validate_facts
from services.fetcher.provider import Answer, FetchCall

# What vendors write where they know no price: none of these may pass for one.
SENTINELS = {-999.0, -1.0, 9223372036.854775807, 9223372036854775807.0, 18446744073709551615.0}
KINDS = {"bars": PriceBars, "quote": PriceQuote, "chain": PriceChain, "actions": PriceActions}
AHEAD = timedelta(hours=14)  # a session's date begins so much earlier in the Pacific than in UTC


def broken_promises(name: str, call: FetchCall, answer: Answer, now: datetime) -> Iterator[str]:
    """What is wrong with an answer, and what to do about it."""
    yield from (f"failed: {symbol} was not asked for" for symbol in answer.failed if symbol not in call.symbols)
    for event in answer.events:
        if event.symbol not in call.symbols:
            yield f"symbol: {event.symbol!r} was not asked for; take what is asked from `call.symbols`, not from the answer"
        elif not isinstance(event, KINDS[call.dataset]) or event.provider != name:
            yield f"{type(event).__name__} of {event.provider}: not what was asked; make events with `EventBuilder`"
        else:
            yield from (f"{type(event).__name__}: {problem}" for problem in _published(event, call, now))


def _published(event: PriceEvent, call: FetchCall, now: datetime) -> Iterator[str]:
    if event.observed_at > now + timedelta(minutes=1):
        yield f"observed_at {event.observed_at} is in the future: no later event would count; give instants to `EventBuilder.quote`"
    sound = validate(event, now)[0] if isinstance(event, PriceBars) else validate_facts(event, now)[0]
    subject = subjects.price(call.dataset, call.timeframe, event.symbol)
    try:
        EventDecoder().decode(subject, msgspec.json.encode(sound))
    except MalformedEventError as error:
        yield f"no cacher could store it: {error}; read values with `fields.number`, `price`, `instant_of`, `unit_of`"
        return
    check: dict[type, Callable[[], Iterator[str]]] = {
        PriceBars: partial(_bars, sound, now),
        PriceQuote: partial(_quote, sound, now),
        PriceChain: partial(_chain, sound, now),
        PriceActions: partial(_actions, sound),
    }
    yield from check[type(sound)]()


def _bars(event: PriceBars, now: datetime) -> Iterator[str]:
    for name in ("open", "high", "low", "close", "adjusted_close"):
        yield from _prices(name, getattr(event, name) or [], negative=may_be_negative(event.symbol))
    yield from _counts("volume", event.volume)
    if event.at != sorted(set(event.at)):
        yield "at: instants do not rise"
    if event.at and event.at[-1] > now + AHEAD:
        yield f"at: {event.at[-1]} is in the future"


def _quote(event: PriceQuote, now: datetime) -> Iterator[str]:
    for name in ("price", "bid", "ask", "previous_close"):
        yield from _prices(name, [getattr(event, name)], negative=may_be_negative(event.symbol))
    yield from _counts("volume", [event.volume])
    if event.at and event.at > now + AHEAD:
        yield f"at: {event.at} is in the future"


def _chain(event: PriceChain, now: datetime) -> Iterator[str]:
    for name in ("strike", "bid", "ask", "last", "mark", "iv"):
        yield from _prices(name, getattr(event, name))
    for name in ("volume", "open_interest"):
        yield from _counts(name, getattr(event, name))
    for name in ("delta", "gamma", "theta", "vega"):
        if any(value is not None and (not isfinite(value) or value in SENTINELS - {-1.0}) for value in getattr(event, name)):
            yield f"{name}: {getattr(event, name)} holds no greek; unknown is None"
    if any(not contract.isprintable() or not 0 < len(contract) <= 64 for contract in event.contract):
        yield f"contract: {[contract[:80] for contract in event.contract]}: a contract needs its name"
    if any(expiry < now.date() - timedelta(days=3660) for expiry in event.expiry):
        yield f"expiry: {event.expiry}: leave a contract out whose expiry cannot be read"
    if any(at is not None and at > now + AHEAD for at in event.at):
        yield f"at: {event.at} is in the future"


def _actions(event: PriceActions) -> Iterator[str]:
    for name in ("ratio", "amount"):
        yield from _prices(name, getattr(event, name))
    if event.date != sorted(event.date):
        yield "date: days do not rise"


def _prices(name: str, column: Column | list[float], *, negative: bool = False) -> Iterator[str]:
    for value in column:
        if value is None or (negative and value < 0 and isfinite(value)):
            continue
        if not isfinite(value) or value <= 0 or value in SENTINELS or value > HIGHEST_PRICE:
            yield f"{name}: {value} is no price; read it with `fields.price`, and let validation see it"


def _counts(name: str, column: Column) -> Iterator[str]:
    for value in column:
        if value is not None and (not isfinite(value) or value < 0 or value in SENTINELS or value > LARGEST_VOLUME):
            yield f"{name}: {value} is no number of shares or contracts"
