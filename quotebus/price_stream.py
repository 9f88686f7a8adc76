"""What is on the prices' stream: which subject is meant, which message it holds."""

import logging
from importlib import import_module
from typing import Any

import msgspec

from contracts import subjects
from contracts.datasets import DATASETS
from contracts.message import decode
from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceCorrected, PriceIv, PriceQuarantined, PriceQuote

AnyPrice = PriceBars | PriceQuote | PriceChain | PriceActions | PriceIv | PriceCorrected | PriceQuarantined
KINDS: dict[str, type[AnyPrice]] = {
    **{name: each.event for name, each in DATASETS.items()},
    "corrected": PriceCorrected,
    "quarantined": PriceQuarantined,
}

_BY_TIMEFRAME = {"corrected", *(name for name, each in DATASETS.items() if each.timeframed)}

log = logging.getLogger("quotebus")


def price_subject(pattern: str) -> str:
    """The subject that is meant: `quote.*` and `bars.1d.BRK.B` as the stream writes them; a bare symbol means its quotes."""
    dataset, _, rest = pattern.removeprefix("price.").partition(".")
    if dataset in ("*", ">"):
        return f"price.{pattern.removeprefix('price.')}"
    if not rest or dataset not in KINDS:
        return subjects.price("quote", None, pattern)
    above, dot, symbol = rest.partition(".") if dataset in _BY_TIMEFRAME else ("", "", rest)
    if "." in symbol:
        symbol = subjects.symbol_token(symbol)
    return f"price.{dataset}.{above}{dot}{symbol}"


def event_of(subject: str, body: bytes) -> AnyPrice | None:
    """The event in the body; none when it is of no kind that we know, or not as agreed, which is logged."""
    kind = KINDS.get(subject.split(".")[1])
    try:
        return decode(body, kind) if kind else None
    except msgspec.MsgspecError as error:
        log.warning("%s: left out an event that is not as agreed: %s", subject, error)
        return None


def to_df(event: AnyPrice) -> Any:
    """The event as a pandas DataFrame, a row an entry; single values stand in every row. pandas must be installed."""
    values = {name: value for name, value in msgspec.structs.asdict(event).items() if name != "fallback_from"}
    single = isinstance(event, PriceQuote | PriceCorrected)
    return import_module("pandas").DataFrame([values] if single else values)
