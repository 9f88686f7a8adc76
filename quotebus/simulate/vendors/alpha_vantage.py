"""Alpha Vantage, played: one path whose `function` chooses; everything comes with status 200 and as text, newest first."""

from collections.abc import Callable
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, frame, reply
from services.fetcher.adapter.events import Contract
from services.fetcher.adapter.fields import NEW_YORK, period_end
from services.fetcher.provider import Reply

INTERVALS: dict[str, Timeframe] = {"1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "60min": "1h"}
PERIODS: dict[str, Timeframe] = {"DAILY": "1d", "WEEKLY": "1wk", "MONTHLY": "1mo"}
COMPACT = 100  # points
DAY, MONTH = timedelta(days=1), timedelta(days=30)
FIRST_DAY = date(1999, 11, 1)


def query(ask: VendorRequest) -> object:
    """Answer a query by its `function` parameter."""
    function = ask.fields["function"]
    if function in FUNCTIONS:
        return FUNCTIONS[function](ask)
    if "INTRADAY" in function or any(word in function for word in PERIODS):
        return series(ask, function)
    raise RefusedError(Reason.BAD_REQUEST, function)


def series(ask: VendorRequest, function: str) -> object:
    """Bars by their time, or by the last session of their period."""
    symbol = ask.known(_symbol(ask))
    bars, interval = _bars(ask, symbol, function)
    if _is_compact(ask, function):
        bars = bars[-COMPACT:]
    zone = "US/Eastern" if ask.kind(symbol) == "share" else "UTC"
    adjusted = "ADJUSTED" in function
    rows = {_time(bar, interval, zone): _row(bar, adjusted=adjusted) for bar in reversed(bars)}
    title = f"Time Series ({interval or function})"
    return {"Meta Data": {"1. Information": "Prices", "2. Symbol": symbol, "6. Time Zone": zone}, title: rows}


def _bars(ask: VendorRequest, symbol: str, function: str) -> tuple[list[Bar], str]:
    today = ask.now.date()
    if "INTRADAY" not in function:
        timeframe = next(timeframe for word, timeframe in PERIODS.items() if word in function)
        first = today - 2 * COMPACT * DAY if _is_compact(ask, function) else FIRST_DAY
        return ask.market.bars(symbol, timeframe, first, today), ""
    timeframe = frame(INTERVALS, ask.fields["interval"])
    first, last = today - MONTH, today
    if month := ask.fields.get("month"):
        first = date.fromisoformat(f"{month}-01")
        last = period_end(first, "1mo") - DAY
    return ask.market.bars(symbol, timeframe, first, last), ask.fields["interval"]


def _is_compact(ask: VendorRequest, function: str) -> bool:
    return ask.fields.get("outputsize", "compact") == "compact" and ("DAILY" in function or "INTRADAY" in function)


def _time(bar: Bar, interval: str, zone: str) -> str:
    return f"{bar.at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}" if interval else str(bar.session)


def _row(bar: Bar, *, adjusted: bool) -> dict[str, str]:
    cells = {f"{n}. {name}": f"{value:.5f}" for n, (name, value) in enumerate(bar.prices.items(), 1)}
    if not adjusted:
        return cells | {"5. volume": f"{bar.volume:.0f}"}
    more = {
        "5. adjusted close": f"{bar.adjusted:.4f}",
        "6. volume": f"{bar.volume:.0f}",
        "7. dividend amount": f"{bar.dividend:.4f}",
    }
    return cells | more


def quote(ask: VendorRequest) -> object:
    """The last price, of the newest session; of an unknown symbol there is nothing."""
    symbol = ask.fields["symbol"]
    if ask.market.is_dead(symbol):
        return {"Global Quote": {}}
    spot = ask.market.quote(ask.known(symbol))
    day = spot.at.astimezone(ZoneInfo(NEW_YORK)).date() if spot.at else ""
    cells = {
        "01. symbol": symbol,
        "05. price": f"{spot.price:.4f}",
        "06. volume": f"{spot.volume:.0f}",
        "07. latest trading day": str(day),
        "08. previous close": f"{spot.previous_close:.4f}",
    }
    return {"Global Quote": cells}


def rate(ask: VendorRequest) -> object:
    """The rate of a pair."""
    spot = ask.market.quote(ask.known(_symbol(ask)))
    cells = {"5. Exchange Rate": f"{spot.price:.8f}", "6. Last Refreshed": f"{spot.at:%Y-%m-%d %H:%M:%S}", "7. Time Zone": "UTC"}
    return {"Realtime Currency Exchange Rate": cells | {"8. Bid Price": f"{spot.bid:.8f}", "9. Ask Price": f"{spot.ask:.8f}"}}


def options(ask: VendorRequest) -> object:
    """The chain of a session; zeros stand for what is unknown."""
    rows = [_contract(row) for row in ask.market.chain(ask.known(ask.fields["symbol"]))]
    day = str((ask.market.quote(ask.fields["symbol"]).at or ask.now).date())
    return {"endpoint": "Historical Options", "message": "success", "data": [row | {"date": day} for row in rows]}


def _contract(row: Contract) -> dict[str, str]:
    prices = {name: f"{getattr(row, name) or 0.0:.4f}" for name in ("last", "mark", "bid", "ask")}
    greeks = {name: f"{getattr(row, name) or 0.0:.6f}" for name in ("delta", "gamma", "theta", "vega")}
    counts = {"volume": f"{row.volume:.0f}", "open_interest": f"{row.open_interest:.0f}"}
    who = {"contractID": row.contract, "expiration": str(row.expiry), "strike": f"{row.strike:.2f}", "type": row.right}
    return {**who, **prices, **counts, "implied_volatility": f"{row.iv or 0.0:.5f}", **greeks}


def splits(ask: VendorRequest) -> object:
    """All there were."""
    return _actions(ask, "split", ("effective_date", "split_factor"))


def dividends(ask: VendorRequest) -> object:
    """Likewise, as they were paid."""
    return _actions(ask, "dividend", ("ex_dividend_date", "amount"))


def _actions(ask: VendorRequest, kind: str, names: tuple[str, str]) -> object:
    symbol = ask.fields["symbol"]
    if ask.market.is_dead(symbol):
        return {}
    rows = [action for action in ask.market.actions(ask.known(symbol), FIRST_DAY) if action.kind == kind]
    return {"symbol": symbol, "data": [{names[0]: str(row.date), names[1]: f"{row.value:.4f}"} for row in reversed(rows)]}


def _symbol(ask: VendorRequest) -> str:
    base = ask.fields.get("from_symbol") or ask.fields.get("from_currency")
    if base:
        return f"{base}/{ask.fields.get('to_symbol') or ask.fields['to_currency']}"
    return f"{ask.fields['symbol']}/{ask.fields['market']}" if "market" in ask.fields else ask.fields["symbol"]


def refused(error: RefusedError) -> Reply:
    """A notice in place of data."""
    if error.why in (Reason.PAID, Reason.THROTTLED):
        limit = f"the rate limit is spent: it is counted per {error.about}; subscribe to a premium plan to lift it"
        return reply({"Information": "This is a premium endpoint." if error.why is Reason.PAID else f"Please note that {limit}."})
    if error.why in (Reason.NO_KEY, Reason.WRONG_KEY):
        return reply({"Error Message": "The parameter apikey is invalid or missing."})
    return reply({"Error Message": "Invalid API call: see the documentation of this function."})


FUNCTIONS: dict[str, Callable[[VendorRequest], object]] = {
    "GLOBAL_QUOTE": quote,
    "CURRENCY_EXCHANGE_RATE": rate,
    "HISTORICAL_OPTIONS": options,
    "SPLITS": splits,
    "DIVIDENDS": dividends,
}
VENDOR = Vendor(
    name="alpha_vantage",
    routes={"GET /query": query},
    refused=refused,
    key_in=lambda ask: ask.fields.get("apikey", ""),
)
