"""Price events as flat records: one a bar, quote, option contract or corporate action."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from contracts.datasets import dataset_of
from contracts.price_events import BAR_COLUMN_NAMES, PriceActions, PriceBars, PriceChain, PriceEvent, PriceIv, PriceQuote
from quotebus.cli.output import Row

_CONTRACT = ("contract", "expiry", "strike", "right", "bid", "ask", "last", "mark", "volume", "open_interest", "iv")
_GREEKS = ("delta", "gamma", "theta", "vega")
_QUOTE = ("symbol", "at", "price", "bid", "ask", "previous_close", "volume", "currency", "provider")


def records_of(event: PriceEvent) -> Iterator[Row]:
    """The event's rows; each has every key of its kind, null where the value is unknown."""
    return RECORDS[dataset_of(event).name](event)


def _bars(event: PriceBars) -> Iterator[Row]:
    nothing = [None] * len(event.at)
    columns = [nothing if (column := getattr(event, name)) is None else column for name in BAR_COLUMN_NAMES]
    for at, final, *values in zip(event.at, event.final, *columns, strict=True):
        yield {
            "symbol": event.symbol,
            "timeframe": event.timeframe,
            "at": at,
            **dict(zip(BAR_COLUMN_NAMES, values, strict=True)),
            "currency": event.currency,
            "basis": event.basis,
            "final": final,
            "provider": event.provider,
        }


def _quote(event: PriceQuote) -> Iterator[Row]:
    yield {name: getattr(event, name) for name in _QUOTE}


def _contracts(event: PriceChain) -> Iterator[Row]:
    names = (*_CONTRACT, *_GREEKS, "at")
    for row in zip(*(getattr(event, name) for name in names), strict=True):
        yield {"underlying": event.symbol, **dict(zip(names, row, strict=True))}


def _actions(event: PriceActions) -> Iterator[Row]:
    for day, kind, ratio, amount in zip(event.date, event.kind, event.ratio, event.amount, strict=True):
        yield {"symbol": event.symbol, "date": day, "kind": kind, "ratio": ratio, "amount": amount}


def _volatilities(event: PriceIv) -> Iterator[Row]:
    for expiry, forward, iv, contracts in zip(event.expiry, event.forward, event.iv, event.contracts, strict=True):
        yield {"underlying": event.symbol, "expiry": expiry, "forward": forward, "iv": iv, "contracts": contracts}


RECORDS: Mapping[str, Callable[[Any], Iterator[Row]]] = {
    "bars": _bars,
    "quote": _quote,
    "chain": _contracts,
    "iv": _volatilities,
    "actions": _actions,
}
