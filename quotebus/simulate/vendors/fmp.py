"""Financial Modeling Prep, played: arrays of rows, newest first; times on New York's wall clock."""

from datetime import timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, frame, reply, seconds
from services.fetcher.adapter.fields import NEW_YORK
from services.fetcher.provider import Reply

INTERVALS: dict[str, Timeframe] = {"1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "1hour": "1h"}
MOST_SESSIONS = 5000
A_WEEK, FIVE_YEARS = timedelta(days=7), timedelta(days=1826)


def sessions(ask: VendorRequest) -> object:
    """Daily bars, adjusted for splits."""
    bars = _sessions(ask)
    return [{"symbol": ask.fields["symbol"], "date": str(bar.session), **bar.prices, "volume": bar.volume} for bar in bars]


def adjusted(ask: VendorRequest) -> object:
    """Likewise, and for dividends."""
    told = []
    for bar in _sessions(ask):
        prices = {f"adj{name.title()}": round(value * bar.adjusted / bar.close, 4) for name, value in bar.prices.items()}
        told.append({"symbol": ask.fields["symbol"], "date": str(bar.session), **prices, "volume": bar.volume})
    return told


def _sessions(ask: VendorRequest) -> list[Bar]:
    symbol, today = ask.known(ask.fields["symbol"]), ask.now.date()
    bars = ask.market.bars(symbol, "1d", ask.day("from", today - FIVE_YEARS), ask.day("to", today), split_adjusted=True)
    return bars[::-1][:MOST_SESSIONS]


def minutes(ask: VendorRequest) -> object:
    """Intraday bars of the wall clock's days; without a range the last sessions."""
    symbol, zone = ask.known(ask.fields["symbol"]), ZoneInfo(NEW_YORK)
    timeframe, today = frame(INTERVALS, ask.fields["interval"]), ask.now.astimezone(zone).date()
    first, last = ask.day("from", today - A_WEEK), ask.day("to", today)
    # A day of the wall clock reaches into the next one of UTC.
    bars = ask.market.bars(symbol, timeframe, first, last + timedelta(days=1), split_adjusted=True)
    told = []
    for bar in reversed(bars):
        local = bar.at.astimezone(zone)
        if first <= local.date() <= last:
            told.append({"date": f"{local:%Y-%m-%d %H:%M:%S}", **bar.prices, "volume": bar.volume})
    return told


def quote(ask: VendorRequest) -> object:
    """One quote, without bid and ask."""
    return [_quote(ask, ask.known(ask.fields["symbol"]))]


def quotes(ask: VendorRequest) -> object:
    """Several; who is unknown is left out."""
    return [_quote(ask, ask.known(symbol)) for symbol in ask.symbols("symbols") if not ask.market.is_dead(symbol)]


def _quote(ask: VendorRequest, symbol: str) -> dict[str, object]:
    spot = ask.market.quote(symbol)
    told = {"symbol": symbol, "price": spot.price, "previousClose": spot.previous_close, "volume": spot.volume}
    return {**told, "timestamp": seconds(spot.at or ask.now)}


def splits(ask: VendorRequest) -> object:
    """All there were."""
    symbol = ask.known(ask.fields["symbol"])
    rows = [action for action in ask.market.actions(symbol) if action.kind == "split"]
    return [{"symbol": symbol, "date": str(row.date), "numerator": row.value, "denominator": 1} for row in reversed(rows)]


def dividends(ask: VendorRequest) -> object:
    """Likewise, as they were declared and adjusted for later splits."""
    symbol, told = ask.known(ask.fields["symbol"]), []
    for row in reversed(ask.market.actions(symbol)):
        if row.kind == "dividend":
            adjusted_amount = round(row.value / ask.market.split_factor(symbol, row.date), 6)
            told.append({"symbol": symbol, "date": str(row.date), "dividend": row.value, "adjDividend": adjusted_amount})
    return told


def profile(ask: VendorRequest) -> object:
    """Company profile of a symbol, with its currency."""
    symbol = ask.known(ask.fields["symbol"])
    return [{"symbol": symbol, "currency": ask.market.instrument(symbol).currency}]


def refused(error: RefusedError) -> Reply:
    """An object, a sentence, or nothing at all."""
    if error.why is Reason.UNKNOWN:
        return reply([])
    if error.why is Reason.PAID:
        return reply(f"Premium Query Parameter: {error.about} is not part of your subscription", 402, "text/plain")
    status, words = {
        Reason.THROTTLED: (429, "Limit Reach. Upgrade your plan for more calls."),
        Reason.NO_KEY: (401, "Invalid API KEY. None was given."),
        Reason.WRONG_KEY: (401, "Invalid API KEY."),
        Reason.BAD_REQUEST: (400, f"Invalid parameter {error.about}"),
    }.get(error.why, (404, "Not found"))
    return reply({"Error Message": words}, status)


VENDOR = Vendor(
    name="fmp",
    routes={
        "GET /stable/historical-price-eod/full": sessions,
        "GET /stable/historical-price-eod/dividend-adjusted": adjusted,
        "GET /stable/historical-chart/{interval}": minutes,
        "GET /stable/quote": quote,
        "GET /stable/batch-quote": quotes,
        "GET /stable/splits": splits,
        "GET /stable/dividends": dividends,
        "GET /stable/profile": profile,
    },
    refused=refused,
    key_in=lambda ask: ask.headers.get("apikey") or ask.fields.get("apikey", ""),
)
