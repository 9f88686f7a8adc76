"""Polygon's symbols: the market and ticker of each, and the ranges of its requests."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from urllib.parse import quote as quoted
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from services.fetcher.adapter.fields import LENGTHS, NEW_YORK, PLAIN, Unit, day_start, option_of, pair_of, period_end, period_start
from services.fetcher.provider import FetchCall

SHARE, OPTION, INDEX, CRYPTO, FX = "", "O:", "I:", "X:", "C:"
_TICKERS = "/v2/snapshot/locale/{}/tickers"
SNAPSHOTS = {
    SHARE: _TICKERS.format("us/markets/stocks"),
    CRYPTO: _TICKERS.format("global/markets/crypto"),
    FX: _TICKERS.format("global/markets/forex"),
}
CONTRACTS = "/v3/snapshot/options"
INDICES = "/v3/snapshot/indices"
LONGEST_LIST = 1700  # characters of tickers, so that an address stays below 2000
# An index under the name most people know, and under the vendor's; any other is `^` for `I:`.
_INDICES = {"^GSPC": "I:SPX", "^DJI": "I:DJI", "^IXIC": "I:COMP"}
# Roots of options whose underlying has another name: those on indices, weekly or monthly.
_UNDERLYINGS = {"SPXW": "I:SPX", "NDXP": "I:NDX", "RUTW": "I:RUT", "VIXW": "I:VIX", "BRKB": "BRK.B", "BFB": "BF.B"}
_INDEX_ROOTS = frozenset({"SPX", "NDX", "RUT", "VIX", "XSP", "DJX", "OEX", "XEO", "XND", "MRUT"})
WINDOWS: dict[Timeframe, str] = {
    "1m": "1/minute", "5m": "5/minute", "15m": "15/minute", "30m": "30/minute",
    "1h": "1/hour", "1d": "1/day", "1wk": "1/week", "1mo": "1/month",
}  # fmt: skip
# So many days hold 500 bars, or are the minutes of one page; two years is what a free key may see.
LATEST_DAYS: dict[Timeframe, int] = {"1m": 7, "5m": 14, "15m": 30, "30m": 50, "1h": 70, "1d": 728, "1wk": 3530, "1mo": 15300}


def market_of(ticker: str) -> str:
    """Return the prefix of a ticker in the vendor's spelling; a share has none."""
    return ticker[:2] if ticker[:2] in (OPTION, INDEX, CRYPTO, FX) else SHARE


def vendor_ticker(symbol: str) -> str:
    """Return a canonical symbol in the vendor's spelling. Case matters: a small p marks a preferred share."""
    if option := option_of(symbol):
        return OPTION + option.symbol
    if market_of(symbol.upper()):
        return symbol.upper()
    if symbol.startswith("^"):
        return _INDICES.get(symbol.upper()) or INDEX + symbol[1:].upper()
    pair = pair_of(symbol)
    if pair is None:
        return symbol.upper() if symbol.islower() else symbol
    return f"{FX if pair.fx else CRYPTO}{pair.base}{pair.quote}"


def underlying_of(ticker: str) -> str:
    """Under which name the vendor keeps the underlying of an option's ticker."""
    option = option_of(ticker)
    root = option.root if option else ""
    return _UNDERLYINGS.get(root) or (INDEX + root if root in _INDEX_ROOTS else root)


def unit_of_ticker(ticker: str) -> Unit:
    """Return the unit of its prices: dollars, a pair's quote currency, or an index's points, which are no money."""
    market = market_of(ticker)
    if market == INDEX:
        return PLAIN
    pair = pair_of(ticker[2:]) if market in (CRYPTO, FX) else None
    return Unit(pair.quote if pair else None) if market in (CRYPTO, FX) else Unit("USD")


def quote_groups(symbols: Sequence[str]) -> Iterator[list[str]]:
    """Symbols of one market, as many as an address holds; each option alone."""
    for market in dict.fromkeys(market_of(vendor_ticker(symbol)) for symbol in symbols):
        group: list[str] = []
        length = 0
        for symbol in (s for s in symbols if market_of(vendor_ticker(s)) == market):
            size = len(quoted(vendor_ticker(symbol), safe="")) + len("%2C")
            if group and (market == OPTION or length + size > LONGEST_LIST):
                yield group
                group, length = [], 0
            group.append(symbol)
            length += size
        yield group


def span(call: FetchCall, timeframe: Timeframe, now: datetime) -> str:
    """Return the range in the vendor's form, ends inclusive: days of the exchange, or instants where its days are not UTC's."""
    if call.start is None or call.end is None:
        return f"{period_start(now.date() - timedelta(days=LATEST_DAYS[timeframe]), timeframe)}/{now.date()}"
    if timeframe in LENGTHS:
        return f"{_milliseconds(call.start)}/{_milliseconds(call.end) - 1}"
    last = period_end(period_start(call.end - timedelta(days=1), timeframe), timeframe) - timedelta(days=1)
    return f"{period_start(call.start, timeframe)}/{last}"


def _milliseconds(day: date) -> int:
    return int(day_start(day).timestamp()) * 1000


def trading_days(call: FetchCall, now: datetime) -> list[date]:
    """Return the weekdays of a range of daily bars that have begun in New York."""
    if call.timeframe != "1d" or call.start is None or call.end is None:
        return []
    count = (min(call.end, today(now) + timedelta(days=1)) - call.start).days
    return [day for i in range(count) if (day := call.start + timedelta(days=i)).weekday() < 5]


def today(now: datetime) -> date:
    """Return the day it is in New York."""
    return now.astimezone(ZoneInfo(NEW_YORK)).date()
