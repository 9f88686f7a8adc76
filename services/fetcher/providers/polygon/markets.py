"""The markets Polygon has, told apart by the prefix of a ticker, and where the quotes of each are asked for."""

from collections.abc import Iterator, Sequence
from urllib.parse import quote as quoted

from services.fetcher.adapter.fields import PLAIN, Unit, option_of, pair_of

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


def market_of(ticker: str) -> str:
    """The prefix of a ticker in the vendor's spelling; a share has none."""
    return ticker[:2] if ticker[:2] in (OPTION, INDEX, CRYPTO, FX) else SHARE


def vendor_ticker(symbol: str) -> str:
    """A canonical symbol in the vendor's spelling. Case matters: a small p marks a preferred share."""
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
    """What its prices are in: dollars, a pair's quote currency, or an index's points, which are no money."""
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
