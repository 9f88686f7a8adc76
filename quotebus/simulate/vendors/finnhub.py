"""Finnhub, played: candles in columns, quotes of one letter a field, splits and dividends."""

from datetime import date, timedelta

from contracts.message import Timeframe
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, frame, reply, seconds
from services.fetcher.adapter.fields import LENGTHS
from services.fetcher.provider import Reply

RESOLUTIONS: dict[str, Timeframe] = {
    "1": "1m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "D": "1d", "W": "1wk", "M": "1mo"
}  # fmt: skip
MONTH = timedelta(days=31)  # the most of an intraday answer


def candles(ask: VendorRequest) -> object:
    """The candles of a range, both ends included; days and longer are adjusted for splits and stamped at midnight UTC."""
    symbol = _name(ask)
    if ask.market.is_dead(symbol):
        return {"s": "no_data"}
    ask.known(symbol)
    timeframe = frame(RESOLUTIONS, ask.fields["resolution"])
    first, last = ask.epoch("from", ask.now), ask.epoch("to", ask.now)
    first = max(first, last - MONTH) if timeframe in LENGTHS else first
    bars = ask.market.bars(symbol, timeframe, first.date(), last.date(), split_adjusted=timeframe not in LENGTHS)
    bars = [bar for bar in bars if first <= bar.at <= last]
    if not bars:
        return {"s": "no_data"}
    columns: dict[str, list[float]] = {name[0]: [bar.prices[name] for bar in bars] for name in ("open", "high", "low", "close")}
    return {**columns, "t": [seconds(bar.at) for bar in bars], "v": [bar.volume for bar in bars], "s": "ok"}


def quote(ask: VendorRequest) -> object:
    """The quote; all zeros of an unknown symbol."""
    symbol = _name(ask)
    if ask.market.is_dead(symbol):
        return {"c": 0, "d": None, "dp": None, "h": 0, "l": 0, "o": 0, "pc": 0, "t": 0}
    spot = ask.market.quote(ask.known(symbol))
    change = (spot.price or 0.0) - (spot.previous_close or 0.0)
    return {"c": spot.price, "d": round(change, 4), "pc": spot.previous_close, "t": seconds(spot.at or ask.now)}


def splits(ask: VendorRequest) -> object:
    """Those of a range."""
    return [{"date": day, "fromFactor": 1, "toFactor": value} for day, value in _actions(ask, "split")]


def dividends(ask: VendorRequest) -> object:
    """Likewise, as they were paid."""
    return [{"date": day, "amount": value, "currency": "USD"} for day, value in _actions(ask, "dividend")]


def _actions(ask: VendorRequest, kind: str) -> list[tuple[str, float]]:
    symbol = _name(ask)
    if ask.market.is_dead(symbol):
        return []
    first, last = ask.day("from", date(1970, 1, 1)), ask.day("to", ask.now.date())
    return [(str(each.date), each.value) for each in ask.market.actions(ask.known(symbol), first, last) if each.kind == kind]


def _name(ask: VendorRequest) -> str:
    """The symbol without its venue: EUR/USD of OANDA:EUR_USD."""
    return ask.fields["symbol"].rpartition(":")[2].replace("_", "/")


def refused(error: RefusedError) -> Reply:
    """An error by name; who asks too often learns from a header when it may again."""
    if error.why is Reason.THROTTLED:
        reset = str(seconds(error.again_at) + 1)
        return reply({"error": "API limit reached. Come back later."}, 429, x_ratelimit_remaining="0", x_ratelimit_reset=reset)
    status, words = {
        Reason.PAID: (403, "You don't have access to this resource."),
        Reason.NO_KEY: (401, "Please use an API key."),
        Reason.WRONG_KEY: (401, "Invalid API key"),
        Reason.BAD_REQUEST: (422, f"Wrong parameter {error.about}"),
    }.get(error.why, (404, "No such endpoint"))
    return reply({"error": words}, status)


VENDOR = Vendor(
    name="finnhub",
    routes={
        "GET /api/v1/quote": quote,
        **{f"GET /api/v1/{market}/candle": candles for market in ("stock", "forex", "crypto")},
        "GET /api/v1/stock/split": splits,
        "GET /api/v1/stock/dividend": dividends,
    },
    refused=refused,
    key_in=lambda ask: ask.headers.get("x-finnhub-token") or ask.fields.get("token", ""),
)
