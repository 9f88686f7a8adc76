"""Which market a Finnhub symbol belongs to: its endpoint, its zone, and in what it is quoted."""

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.fetcher.adapter.fields import PLAIN, Unit, pair_of

NEW_YORK = "America/New_York"
# The brokers whose symbols (`OANDA:EUR_USD`) are under /forex; every other prefix is a crypto exchange.
BROKERS = frozenset(
    {"OANDA", "FXCM", "FOREX", "FOREX.COM", "FXPRO", "FHFX", "IC MARKETS", "ICMARKETS", "ICM", "ICMTRADER", "PEPPERSTONE", "OCTAFX"}
)
DOLLARS = frozenset({"USD", "EUR", "GBP"})  # what Coinbase quotes crypto currencies in
# The exchange codes that Finnhub puts behind a ticker, by a zone that keeps the same time as the exchange.
_CODES = {
    "America/Toronto": "TO V CN NE",
    "America/Mexico_City": "MX",
    "America/Sao_Paulo": "SA",
    "America/Argentina/Buenos_Aires": "BA",
    "America/Santiago": "SN",
    "America/Bogota": "CB",
    "Europe/London": "L LN IR LS",
    "Atlantic/Reykjavik": "IC",
    "Europe/Berlin": "DE F BE DU HM HA MU SG SX TG PA AS BR MC MI SW VI OL ST CO WA PR BD",
    "Europe/Athens": "AT HE RG TL VS RO",
    "Europe/Istanbul": "IS",
    "Europe/Moscow": "ME",
    "Asia/Jerusalem": "TA",
    "Africa/Johannesburg": "JO",
    "Africa/Cairo": "CA",
    "Asia/Riyadh": "SR",
    "Asia/Qatar": "QA",
    "Asia/Dubai": "DB",
    "Asia/Kolkata": "NS BO",
    "Asia/Bangkok": "BK",
    "Asia/Jakarta": "JK",
    "Asia/Ho_Chi_Minh": "VN",
    "Asia/Kuala_Lumpur": "KL",
    "Asia/Singapore": "SI",
    "Asia/Hong_Kong": "HK",
    "Asia/Shanghai": "SS SZ",
    "Asia/Taipei": "TW TWO",
    "Asia/Seoul": "KS KQ",
    "Asia/Tokyo": "T",
    "Australia/Sydney": "AX",
    "Pacific/Auckland": "NZ",
}
_ZONES = {code: zone for zone, codes in _CODES.items() for code in codes.split()}


class Market(NamedTuple):
    """`path`: the folder of its candles: stock, forex or crypto. `foreign`: a share of another country than the United States."""

    path: str
    zone: str = "UTC"
    unit: Unit = PLAIN
    foreign: bool = False

    def session_of(self, at: datetime) -> date:
        """The date of the session that a daily or longer candle is stamped for.

        Midnight UTC is that date itself. Otherwise a share's candle has midnight or the opening in its exchange's zone, and
        a currency's the roll at 17:00 in New York, which opens the day that it closes on.
        """
        if self.path == "crypto" or at.astimezone(UTC).time() == time():
            return at.astimezone(UTC).date()
        if self.path == "forex":
            return (at.astimezone(ZoneInfo(NEW_YORK)) + timedelta(hours=7)).date()
        return at.astimezone(ZoneInfo(self.zone)).date()


def vendor_symbol(symbol: str) -> str:
    """`OANDA:EUR_USD` for EUR/USD, `COINBASE:BTC-USD` for BTC/USD, `BINANCE:BTCUSDT` for BTC/USDT; any other as it is."""
    pair = None if ":" in symbol else pair_of(symbol)
    if pair is None:
        return symbol
    if pair.fx:
        return f"OANDA:{pair.base}_{pair.quote}"
    return f"COINBASE:{pair.base}-{pair.quote}" if pair.quote in DOLLARS else f"BINANCE:{pair.base}{pair.quote}"


def market_of(symbol: str) -> Market:
    """The market of a symbol in Finnhub's spelling. In what shares outside the United States are quoted is not said."""
    venue, colon, name = symbol.partition(":")
    if colon:
        pair = pair_of(name.replace("_", "/").replace("-", "/"))
        return Market("forex" if venue.upper() in BROKERS else "crypto", unit=Unit(pair.quote) if pair else PLAIN)
    code = symbol.rpartition(".")[2].upper() if "." in symbol else ""
    if code in _ZONES:
        return Market("stock", _ZONES[code], foreign=True)
    # A single letter that is no exchange is a share's class. An index has points, and a longer code we do not know a currency.
    return Market("stock", NEW_YORK, PLAIN if symbol.startswith("^") or len(code) > 1 else Unit("USD"))
