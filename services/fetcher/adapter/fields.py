"""Parses the fields of vendors' records: numbers that may be unknown, minor units, symbols, days and periods."""

import math
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from contracts.message import Timeframe

NEW_YORK = "America/New_York"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What lies outside is no time of any market, and near the ends of the calendar a day more or less is an error.
YEARS = range(1700, 2200)
LENGTHS: dict[Timeframe, timedelta] = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
}
# What vendors write where they know no price; the largest integers stand for "undefined" in binary formats.
_NO_PRICE = frozenset({0.0, -1.0, -999.0, -999.99, 9223372036.854775807, 9223372036854775807.0, 18446744073709551615.0})
_MINOR_UNITS = {"GBp": "GBP", "GBX": "GBP", "ILA": "ILS", "ZAc": "ZAR"}
_MONEY = re.compile(
    "AED|ARS|AUD|BRL|CAD|CHF|CLP|CNH|CNY|COP|CZK|DKK|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KRW|MXN|MYR|NGN|NOK|NZD|PEN|PHP|PKR|PLN"
    "|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR|XAG|XAU|XPD|XPT"
)
_CODE = re.compile(r"[A-Za-z0-9]{2,12}")
_CRYPTO_QUOTES = ("USDT", "USDC", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
_OPTION = re.compile(r"(?:O:)?([A-Z0-9]{1,6}) *(\d{6})([CP])(\d{8})")
_SHARE_CLASS = re.compile(r"([A-Za-z]{1,5})\.([A-Za-z])")


class Unit(NamedTuple):
    """Unit of a vendor's prices: the major unit, the vendor's own if it is a hundredth of it, and the factor between them."""

    currency: str | None = None
    quoted_in: str | None = None
    scale: float = 1.0

    def known(self, value: float) -> float:
        """Convert a vendor's price to the major unit."""
        return value if self.scale == 1.0 else significant(value * self.scale, 15)

    def major(self, value: float | None) -> float | None:
        """Convert a price that may be unknown to the major unit."""
        return None if value is None else self.known(value)


PLAIN = Unit()


def unit_of(code: object) -> Unit:
    """Parse a vendor's currency code; an unreadable one gives PLAIN. Case matters: GBp is a penny, GBP a pound."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return PLAIN
    major = _MINOR_UNITS.get(code)
    return Unit(major, code, 0.01) if major else Unit(code.upper())


def number(value: object) -> float | None:
    """Parse a finite number from a number, a text or `{"raw": …}`; None for anything else."""
    if isinstance(value, dict):
        value = value.get("raw")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found + 0.0 if math.isfinite(found) else None  # a minus zero is a zero


def price(value: object) -> float | None:
    """Parse a price; None for 0, -1 and other sentinels, which vendors write where they know none."""
    found = number(value)
    return None if found in _NO_PRICE else found


def significant(value: float, digits: int) -> float:
    """Round to so many significant digits: 7 remove the noise of a float32."""
    return float(f"{value:.{digits}g}")


class Pair(NamedTuple):
    """A currency pair; `fx`: both sides are money or metal, else one is a crypto currency."""

    base: str
    quote: str

    @property
    def fx(self) -> bool:
        return bool(_MONEY.fullmatch(self.base) and _MONEY.fullmatch(self.quote))


def pair_of(symbol: str) -> Pair | None:
    """Parse the currency pair that a symbol names: `EUR/USD`, `BTC/USD`, or joined (`eurusd`); a share has at most five letters."""
    text = symbol.upper()
    base, slash, quote = text.partition("/")
    if slash:
        return Pair(base, quote) if base and quote else None
    if len(text) < 6 or not text.isalnum():
        return None
    if (joined := Pair(text[:3], text[3:])).fx:
        return joined
    quote = next((q for q in _CRYPTO_QUOTES if text.endswith(q) and len(text) - len(q) >= 2), "")
    return Pair(text.removesuffix(quote), quote) if quote else None


class Option(NamedTuple):
    """Option of an OCC symbol. `root` is often, not always, the underlying."""

    root: str
    expiry: date
    right: Literal["call", "put"]
    strike: float

    @property
    def symbol(self) -> str:
        """OCC symbol without padding and prefix, as in `AAPL251219C00200000`."""
        return f"{self.root}{self.expiry:%y%m%d}{self.right[0].upper()}{round(self.strike * 1000):08d}"


def option_of(symbol: str) -> Option | None:
    """Parse the option that a symbol names: padded or not, and whether or not `O:` stands before it."""
    found = _OPTION.fullmatch(symbol.upper())
    if not found:
        return None
    try:
        expiry = datetime.strptime(found[2], "%y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        return None
    return Option(found[1], expiry, "call" if found[3] == "C" else "put", int(found[4]) / 1000)


def dashed_class(symbol: str, suffixes: str = "") -> str:
    """Spell a share class with a dash, `BRK.B` as `BRK-B`. `suffixes`: letters of exchanges, which stay: `VOD.L` is London's."""
    found = _SHARE_CLASS.fullmatch(symbol)
    return f"{found[1]}-{found[2]}" if found and found[2].upper() not in suffixes else symbol


def day_of(text: object) -> date | None:
    """Parse the day that a text begins with, as written: a time zone never shifts a session date. None: no day of any market."""
    try:
        found = date.fromisoformat(str(text)[:10])
    except ValueError:
        return None
    return found if found.year in YEARS else None


def instant_of(text: object, zone: str = "UTC") -> datetime | None:
    """Parse an ISO text to a UTC instant; one without an offset is local time in `zone`. None: no time of any market."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    if found.year not in YEARS:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)


def from_epoch(seconds: object) -> datetime | None:
    """Convert seconds since 1970 (negative: before it) to an instant; None for unknown, which vendors write as 0 too."""
    found = number(seconds)
    try:
        at = EPOCH + timedelta(seconds=found) if found else None
    except OverflowError:  # milliseconds, say: no date has so large a year
        return None
    return at if at and at.year in YEARS else None


def day_start(day: date, zone: str = "UTC") -> datetime:
    """Return the instant a day begins in a zone, as UTC."""
    return datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC)


def period_start(day: date, timeframe: Timeframe) -> date:
    """Return the day that stands for a daily or longer bar: the session's, its week's Monday, its month's first."""
    if timeframe == "1wk":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if timeframe == "1mo" else day


def period_end(start: date, timeframe: Timeframe) -> date:
    """Return the first day after the period that begins on `start`."""
    if timeframe == "1wk":
        return start + timedelta(days=7)
    return (start + timedelta(days=31)).replace(day=1) if timeframe == "1mo" else start + timedelta(days=1)
