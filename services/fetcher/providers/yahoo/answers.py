"""What Yahoo answers: an envelope with results or an error; charts, quotes, option chains."""

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from services.fetcher.adapter.events import Action, Bar, Contract, Quote
from services.fetcher.adapter.fields import EPOCH, from_epoch, number, price, significant
from services.fetcher.adapter.responses import check_zone, decode_text, error_for_status, retry_after, sanitize
from services.fetcher.provider import ProviderError, Reply, Verdict

T = TypeVar("T")

VOLUMELESS = frozenset({"CURRENCY", "MUTUALFUND", "INDEX"})
_FLOATS: msgspec.json.Decoder[list[float | None]] = msgspec.json.Decoder(list[float | None])
LEAST_IV = 1e-4  # 0.00001 stands for "not computed"
# The first whose words an error holds.
SIGNS = {
    Verdict.RATE_LIMITED: ("too many requests", "rate limit"),
    Verdict.EMPTY: ("data doesn't exist",),
    Verdict.BAD_REQUEST: ("must be within", "data not available for", "invalid input", "unprocessable", "bad request"),
    Verdict.UNAUTHORIZED: ("crumb", "unauthorized", "unable to access", "cookie"),
    Verdict.NOT_FOUND: ("not found", "no data found", "delisted"),
    Verdict.SERVER_ERROR: ("internal", "unavailable", "timeout", "timed out"),
}


class _Error(msgspec.Struct):
    code: str = ""
    description: str | None = None


class _Envelope(msgspec.Struct):
    result: list[msgspec.Raw] | None = None
    error: _Error | None = None


class Meta(msgspec.Struct, rename="camel"):
    """`currency` in Yahoo's spelling; `regular_market_time` is the last trade's, in seconds since 1970."""

    currency: str | None = None
    exchange_timezone_name: str = ""
    instrument_type: str = ""
    regular_market_time: int = 0


class _Prices(msgspec.Struct):
    open: list[float | None] = []
    high: list[float | None] = []
    low: list[float | None] = []
    close: list[float | None] = []
    volume: list[float | None] = []


class _Adjusted(msgspec.Struct):
    adjclose: list[float | None] = []


class _Indicators(msgspec.Struct):
    quote: list[_Prices] = []
    adjclose: list[_Adjusted] = []


class Chart(msgspec.Struct):
    """Columns of bars, by their start in seconds since 1970; a range without bars has no `timestamp`."""

    meta: Meta
    timestamp: list[int] | None = None
    indicators: _Indicators = msgspec.field(default_factory=_Indicators)
    events: dict[str, dict[str, dict[str, Any]]] = {}


class _Expiration(msgspec.Struct, rename="camel"):
    expiration_date: int = 0
    calls: list[dict[str, Any]] = []
    puts: list[dict[str, Any]] = []


class Chain(msgspec.Struct, rename="camel"):
    """The contracts of one expiration, and the dates of all, each midnight UTC in seconds."""

    expiration_dates: list[int] = []
    options: list[_Expiration] = []

    def missing_dates(self) -> list[int]:
        """The expirations whose contracts are not here."""
        return sorted(set(self.expiration_dates) - {expiration.expiration_date for expiration in self.options})


def parse_results(reply: Reply, kind: type[T], now: datetime) -> list[T]:
    """The results in the envelope, whatever its name.

    Raises:
        ProviderError: the envelope holds an error, or there is no envelope.
    """
    try:
        envelope = next(iter(msgspec.json.decode(reply.body, type=dict[str, _Envelope | None]).values()), None)
        if envelope is not None and envelope.error is not None:
            raise _refused(reply, envelope.error, now)
        if envelope is not None and envelope.result is not None and reply.status == 200:
            return [msgspec.json.decode(result, type=kind) for result in envelope.result]
    except (ValueError, RecursionError):  # no JSON, no text, or nested beyond measure
        if reply.status == 999 or "too many requests" in decode_text(reply)[:200].lower():
            raise ProviderError(Verdict.RATE_LIMITED, "yahoo: too many requests", retry_after(reply, now)) from None
    raise error_for_status("yahoo", reply, now)


def parse_rows(chart: Chart) -> list[Bar]:
    """The bars in Yahoo's order, prices in Yahoo's unit.

    Raises:
        ProviderError: malformed, when the columns are not of one length.
    """
    if not chart.timestamp or not chart.indicators.quote:
        return []
    prices, count, kind = chart.indicators.quote[0], len(chart.timestamp), chart.meta.instrument_type
    adjusted = chart.indicators.adjclose[0].adjclose if chart.indicators.adjclose else []
    columns = [c or [None] * count for c in (prices.open, prices.high, prices.low, prices.close, prices.volume, adjusted)]
    if any(len(column) != count for column in columns):
        raise ProviderError(Verdict.MALFORMED, "yahoo: the columns of the chart are not of one length")
    *exact, volume, adjusted = columns
    opens, high, low, close, adjusted = map(_exact_column, (*exact, adjusted))
    volume = [_volume(value, kind) for value in volume] if kind in VOLUMELESS else volume
    instants = list(map(_instant, chart.timestamp))
    rows = list(map(Bar._make, zip(instants, opens, high, low, close, volume, adjusted, strict=True)))
    return [row for row in rows if row.at != EPOCH] if EPOCH in instants else rows


def parse_actions(chart: Chart) -> Iterator[Action]:
    """Splits and dividends, on their day in the exchange's zone."""
    zone = ZoneInfo(check_zone("yahoo", chart.meta.exchange_timezone_name))
    for event in chart.events.get("splits", {}).values():
        new, old, at = number(event.get("numerator")), number(event.get("denominator")), from_epoch(event.get("date"))
        if new and old and at:
            yield Action(at.astimezone(zone).date(), "split", new / old)
    for event in chart.events.get("dividends", {}).values():
        amount, at = _exact(price(event.get("amount"))), from_epoch(event.get("date"))
        if amount and at:
            yield Action(at.astimezone(zone).date(), "dividend", amount)


def parse_contracts(chain: Chain) -> Iterator[Contract]:
    """The calls and puts; Yahoo gives no greeks and no mark."""
    for expiration in chain.options:
        yield from _contracts(expiration.calls, "call")
        yield from _contracts(expiration.puts, "put")


def parse_spot(row: dict[str, Any]) -> Quote:
    """A quote of the regular session, prices in Yahoo's unit."""
    return Quote(
        at=from_epoch(row.get("regularMarketTime")),
        price=_exact(price(row.get("regularMarketPrice"))),
        bid=_exact(price(row.get("bid"))),
        ask=_exact(price(row.get("ask"))),
        previous_close=_exact(price(row.get("regularMarketPreviousClose"))),
        volume=_volume(number(row.get("regularMarketVolume")), str(row.get("quoteType", ""))),
    )


def _refused(reply: Reply, error: _Error, now: datetime) -> ProviderError:
    words = f"{error.code}: {error.description or ''}"
    for verdict, signs in SIGNS.items():
        if any(sign in words.lower() for sign in signs):
            return ProviderError(verdict, f"yahoo: {sanitize(words)}", retry_after(reply, now))
    return error_for_status("yahoo", reply, now)


def _contracts(rows: Iterable[dict[str, Any]], right: Literal["call", "put"]) -> Iterator[Contract]:
    for row in rows:
        if expiry := from_epoch(row.get("expiration")):
            yield _contract(row, right, expiry.date())


def _contract(row: dict[str, Any], right: Literal["call", "put"], expiry: date) -> Contract:
    iv = number(row.get("impliedVolatility"))
    return Contract(
        contract=str(row.get("contractSymbol") or ""),
        expiry=expiry,
        strike=number(row.get("strike")) or 0.0,
        right=right,
        bid=price(row.get("bid")),
        ask=price(row.get("ask")),
        last=price(row.get("lastPrice")),
        volume=number(row.get("volume")),
        open_interest=number(row.get("openInterest")),
        iv=iv if iv and iv > LEAST_IV else None,
        at=from_epoch(row.get("lastTradeDate")),
    )


def _exact(value: float | None) -> float | None:
    """A price without the noise of its float32: seven digits are all it ever had."""
    return None if value is None else significant(value, 7)


def _exact_column(column: list[float | None]) -> list[float | None]:
    """The same for all of a column, which nearly always has no gaps, at once."""
    if None in column:
        return [_exact(value) for value in column]
    return _FLOATS.decode(f"[{','.join(['%.7g'] * len(column)) % tuple(column)}]")


@lru_cache(maxsize=65536)
def _instant(seconds: int) -> datetime:
    """Remembered, as bars of many symbols begin at the same instants. EPOCH stands for unknown."""
    return from_epoch(seconds) or EPOCH


def _volume(value: float | None, kind: str) -> float | None:
    return None if not value and kind in VOLUMELESS else value
