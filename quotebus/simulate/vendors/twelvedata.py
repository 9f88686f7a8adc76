"""Twelve Data, played: series and quotes whose numbers are texts, by symbol where several are asked. A symbol costs a credit."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import Handler, Reason, RefusedError, Vendor, VendorRequest, frame, reply, seconds
from services.fetcher.adapter.fields import LENGTHS
from services.fetcher.provider import Reply

INTERVALS: dict[str, Timeframe] = {
    "1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "1h": "1h", "1day": "1d", "1week": "1wk", "1month": "1mo"
}  # fmt: skip
DAYS_BACK: dict[Timeframe, int] = {"1d": 2, "1wk": 8, "1mo": 32}
MOST_ROWS = 5000
ACTIONS_CREDITS = 20


def series(ask: VendorRequest, symbol: str) -> object:
    """Bars, newest first, in the exchange's own time. `end_date` is exclusive as a day, inclusive as a time."""
    timeframe = frame(INTERVALS, ask.fields["interval"])
    zone = ZoneInfo(ask.market.zone(ask.known(symbol)))
    size = min(int(ask.fields.get("outputsize", "30")), MOST_ROWS)
    last = _instant(ask, "end_date", zone) or ask.now + timedelta(days=1)
    first = _instant(ask, "start_date", zone) or last - timedelta(days=10 + size * DAYS_BACK.get(timeframe, 2))
    bars = ask.market.bars(symbol, timeframe, (first - timedelta(days=1)).date(), last.date(), split_adjusted=True)
    starts = [(bar, bar.at if timeframe in LENGTHS else datetime.combine(bar.at.date(), time(), zone)) for bar in bars]
    includes_end = len(ask.fields.get("end_date", "")) > 10
    rows = [bar for bar, at in starts if first <= at and (at < last or (includes_end and at == last))]
    if not rows:
        raise RefusedError(Reason.BAD_REQUEST, "No data is available on the specified dates")
    values = [_values(bar, timeframe, zone) for bar in reversed(rows[-size:])]
    return {"meta": _meta(ask, symbol) | {"interval": ask.fields["interval"]}, "values": values, "status": "ok"}


def _instant(ask: VendorRequest, name: str, zone: ZoneInfo) -> datetime | None:
    given = ask.fields.get(name)
    return datetime.fromisoformat(given).replace(tzinfo=zone).astimezone(UTC) if given else None


def _values(bar: Bar, timeframe: Timeframe, zone: ZoneInfo) -> dict[str, str]:
    at = f"{bar.at.astimezone(zone):%Y-%m-%d %H:%M:%S}" if timeframe in LENGTHS else str(bar.at.date())
    return {"datetime": at, **{name: f"{value:.5f}" for name, value in bar.prices.items()}, "volume": f"{bar.volume:.0f}"}


def quote(ask: VendorRequest, symbol: str) -> object:
    """The quote, as of its last minute; no bid and no ask."""
    spot = ask.market.quote(ask.known(symbol))
    told = {"symbol": symbol, "close": f"{spot.price:.5f}", "previous_close": f"{spot.previous_close:.5f}"}
    times = {"datetime": f"{spot.at:%Y-%m-%d}", "last_quote_at": seconds(spot.at or ask.now)}
    return {**_meta(ask, symbol), **told, **times, "volume": f"{spot.volume:.0f}"}


def splits(ask: VendorRequest, symbol: str) -> object:
    """All there were; the factors are the other way round than one would read them."""
    rows = [action for action in ask.market.actions(ask.known(symbol)) if action.kind == "split"]
    told = [{"date": str(r.date), "ratio": round(1 / r.value, 5), "from_factor": r.value, "to_factor": 1} for r in reversed(rows)]
    return {"meta": _meta(ask, symbol), "splits": told}


def dividends(ask: VendorRequest, symbol: str) -> object:
    """Likewise, as they were paid."""
    rows = [action for action in ask.market.actions(ask.known(symbol)) if action.kind == "dividend"]
    return {"meta": _meta(ask, symbol), "dividends": [{"ex_date": str(r.date), "amount": r.value} for r in reversed(rows)]}


def _meta(ask: VendorRequest, symbol: str) -> dict[str, object]:
    if ask.kind(symbol) != "share":
        base, _, quoted = symbol.partition("/")
        return {"symbol": symbol, "currency_base": base, "currency_quote": quoted}
    return {"symbol": symbol, "currency": "USD", "exchange": "NYSE", "exchange_timezone": ask.market.zone(symbol)}


def _each(handler: object) -> Handler:
    """The handler's answer for a single symbol; of several each has its own, in which it may be an error."""
    assert callable(handler)

    def together(ask: VendorRequest) -> object:
        symbols = ask.symbols("symbol")
        if len(symbols) == 1:
            return handler(ask, symbols[0])
        told: dict[str, object] = {}
        for symbol in symbols:
            try:
                told[symbol] = handler(ask, symbol)
            except RefusedError as error:
                told[symbol] = _error(error)
        return told

    return together


def _error(error: RefusedError) -> dict[str, object]:
    spent = "for the day" if error.about == "day" else "for the current minute"
    code, words = {
        Reason.UNKNOWN: (404, f"**symbol** not found: {error.about}"),
        Reason.PAID: (403, f"{error.about} is available starting with a larger plan. Consider upgrading."),
        Reason.THROTTLED: (429, f"No more API credits {spent}."),
        Reason.NO_KEY: (401, "**apikey** parameter is missing."),
        Reason.WRONG_KEY: (401, "**apikey** parameter is incorrect."),
        Reason.BAD_REQUEST: (400, error.about),
    }.get(error.why, (404, "No such path"))
    return {"code": code, "message": words, "status": "error"}


def refused(error: RefusedError) -> Reply:
    """An error with its code in the body, which is the status too."""
    told = _error(error)
    return reply(told, int(str(told["code"])))


def weight(ask: VendorRequest) -> int:
    """Credits: one a symbol, of splits and dividends more."""
    return ACTIONS_CREDITS if ask.path in ("/splits", "/dividends") else max(1, len(ask.symbols("symbol")))


VENDOR = Vendor(
    name="twelvedata",
    routes={
        "GET /time_series": _each(series),
        "GET /quote": _each(quote),
        "GET /splits": _each(splits),
        "GET /dividends": _each(dividends),
    },
    refused=refused,
    key_in=lambda ask: ask.headers.get("authorization", "").removeprefix("apikey ") or ask.fields.get("apikey", ""),
    weight=weight,
)
