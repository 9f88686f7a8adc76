"""What Schwab answers about prices: candles, and quotes by symbol, in blocks that depend on the kind of asset."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from services.fetcher.adapter.events import Bar, Quote
from services.fetcher.adapter.fields import LENGTHS, day_start, from_epoch, instant_of, number, price
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.providers.schwab.refusals import Document, refuse_unknown

NEW_YORK = "America/New_York"
VOLUMELESS = frozenset({"INDEX", "FOREX", "MUTUAL_FUND"})
_EVENING = timedelta(hours=7)


def parse_rows(document: Document, timeframe: Timeframe, *, has_volume: bool = True) -> Iterator[Bar]:
    """The candles. A day is stamped with midnight in Chicago, or with the evening before where its session opens then.

    Raises:
        ProviderError: malformed, there are none and the answer does not say that it is empty.
    """
    refuse_unknown(document)
    candles = document.get("candles")
    if not isinstance(candles, list):
        if document.get("empty") is True:
            return
        raise ProviderError(Verdict.MALFORMED, "schwab: the price history has no candles")
    for candle in candles:
        if not isinstance(candle, dict):
            continue
        at = instant_in(candle.get("datetime")) or instant_of(candle.get("datetimeISO8601"))
        if at is None:
            continue
        volume = count_of(candle.get("volume"))
        o, h, low, c = (price(candle.get(name)) for name in ("open", "high", "low", "close"))
        yield Bar(at if timeframe in LENGTHS else _session_start(at), o, h, low, c, volume if volume or has_volume else None)


def _session_start(at: datetime) -> datetime:
    session = (at.astimezone(ZoneInfo(NEW_YORK)) + _EVENING).date()
    return day_start(session, NEW_YORK)


def quotes_in(document: Document) -> tuple[dict[str, Document], set[str]]:
    """The quotes by `plain` symbol, and the symbols Schwab does not know. `/ES` is answered as the contract that is active."""
    found: dict[str, Document] = {}
    for key, entry in document.items():
        if key == "errors" or not isinstance(entry, dict):
            continue
        reference = _block(entry, "reference")
        if product := reference.get("product"):
            found.setdefault(plain(product), entry)
        found |= {plain(name): entry for name in (entry.get("symbol"), key) if name}
    errors = _block(document, "errors")
    return found, {plain(symbol) for listed in errors.values() if isinstance(listed, list) for symbol in listed}


def plain(symbol: object) -> str:
    """A symbol as it is compared: the padding inside an option's does not count."""
    return "".join(str(symbol).split()).upper()


def parse_spot(entry: Document) -> Quote:
    """The quote of any kind of asset. `closePrice` is the close before; a fund has its net asset value instead of a last price."""
    quote = _block(entry, "quote") or entry  # older answers have no blocks
    regular = _block(entry, "regular")
    volume = count_of(quote.get("totalVolume"))
    times = [quote.get(name) for name in ("quoteTime", "quoteTimeInLong", "tradeTime", "tradeTimeInLong")]
    return Quote(
        at=next((at for time in (*times, regular.get("regularMarketTradeTime")) if (at := instant_in(time))), None),
        price=first_price(quote.get("lastPrice"), quote.get("nAV"), regular.get("regularMarketLastPrice")),
        bid=price(quote.get("bidPrice")),
        ask=price(quote.get("askPrice")),
        previous_close=price(quote.get("closePrice")),
        volume=volume if volume or kind_of(entry) not in VOLUMELESS else None,
    )


def kind_of(entry: Document) -> str:
    """EQUITY, INDEX, OPTION, FUTURE, FOREX, …"""
    return str(entry.get("assetMainType") or entry.get("assetType") or "")


def first_price(*values: object) -> float | None:
    """The first that is a price."""
    return next((found for value in values if (found := price(value)) is not None), None)


def count_of(value: object) -> float | None:
    """A volume or an open interest; less than 0 is unknown."""
    found = number(value)
    return None if found is not None and found < 0 else found


def instant_in(milliseconds: object) -> datetime | None:
    """The instant so many milliseconds after 1970; 0 and less are unknown."""
    found = number(milliseconds)
    return from_epoch(found / 1000) if found and found > 0 else None


def _block(entry: Document, name: str) -> Document:
    found = entry.get(name)
    return found if isinstance(found, dict) else {}
