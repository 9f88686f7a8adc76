"""Marketstack, played: pages of end-of-day rows, quotes of IEX, splits and dividends. A request counts once a symbol."""

from collections.abc import Callable, Iterable
from datetime import date, timedelta

from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, page, reply
from services.fetcher.provider import Reply

MOST_ROWS = 1000
A_YEAR = timedelta(days=365)
Rows = list[dict[str, object]]


def end_of_day(ask: VendorRequest) -> object:
    """The bars of all symbols, by date."""
    first, last = ask.day("date_from", ask.now.date() - 2 * A_YEAR), ask.day("date_to", ask.now.date())
    return _paged(ask, [_row(symbol, bar) for symbol in _known(ask) for bar in ask.market.bars(symbol, "1d", first, last)])


def latest(ask: VendorRequest) -> object:
    """The newest bar of each."""
    today = ask.now.date()
    return _paged(ask, [_row(s, ask.market.bars(s, "1d", today - timedelta(days=10), today)[-1]) for s in _known(ask)])


def _row(symbol: str, bar: Bar) -> dict[str, object]:
    adjusted = {f"adj_{name}": round(value * bar.adjusted / bar.close, 4) for name, value in bar.prices.items()}
    more = {"split_factor": bar.split, "dividend": bar.dividend, "exchange": "XNAS", "price_currency": "usd"}
    return {"date": _date(bar.session), "symbol": symbol, **bar.prices, "volume": bar.volume, **adjusted, **more}


def live(ask: VendorRequest) -> object:
    """The quotes of IEX; its last price, bid and ask want an agreement with it, and `close` is of the day before."""
    rows: Rows = []
    for symbol in _known(ask):
        spot = ask.market.quote(symbol)
        dated = {"date": f"{spot.at:%Y-%m-%dT%H:%M:%S+0000}", "symbol": symbol, "exchange": "IEXG"}
        unknown = dict.fromkeys(("last", "bid_price", "ask_price"))
        rows.append({**dated, **unknown, "marketstack_last": spot.price, "close": spot.previous_close, "volume": spot.volume})
    return _paged(ask, rows)


def splits(ask: VendorRequest) -> object:
    """Those of a range."""
    return _actions(ask, "split", lambda value: {"split_factor": value, "stock_split": f"{value:g}:1"})


def dividends(ask: VendorRequest) -> object:
    """Likewise, as they were paid."""
    return _actions(ask, "dividend", lambda value: {"dividend": value})


def _actions(ask: VendorRequest, kind: str, told: Callable[[float], dict[str, object]]) -> object:
    first, last = ask.day("date_from", date(1990, 1, 1)), ask.day("date_to", ask.now.date())
    rows: Rows = []
    for symbol in _known(ask):
        own = [action for action in ask.market.actions(symbol, first, last) if action.kind == kind]
        rows += [{"date": _date(action.date), "symbol": symbol, **told(action.value)} for action in own]
    return _paged(ask, rows)


def _known(ask: VendorRequest) -> list[str]:
    """The symbols there are, spelled with a dot; one of a larger plan spoils the request for all."""
    known = [ask.known(symbol) for symbol in ask.symbols("symbols") if not ask.market.is_dead(symbol)]
    if not known:
        raise RefusedError(Reason.UNKNOWN, ask.fields.get("symbols", ""))
    return known


def _paged(ask: VendorRequest, rows: Iterable[dict[str, object]]) -> object:
    ordered = sorted(rows, key=lambda row: str(row["date"]), reverse=ask.fields.get("sort", "DESC").upper() == "DESC")
    offset, limit = int(ask.fields.get("offset", "0")), min(int(ask.fields.get("limit", "100")), MOST_ROWS)
    told, _ = page(ordered, offset, limit)
    return {"pagination": {"limit": limit, "offset": offset, "count": len(told), "total": len(ordered)}, "data": told}


def _date(day: date) -> str:
    return f"{day}T00:00:00+0000"


def refused(error: RefusedError) -> Reply:
    """An error with a code."""
    spent = "rate_limit_reached" if error.about == "second" else "usage_limit_reached"
    status, code, words = {
        Reason.UNKNOWN: (422, "no_valid_symbols_provided", "Give a valid symbol"),
        Reason.PAID: (403, "function_access_restricted", f"Your plan does not include {error.about}"),
        Reason.THROTTLED: (429, spent, f"No more requests in this {error.about}"),
        Reason.NO_KEY: (401, "missing_access_key", "Give an API access key"),
        Reason.WRONG_KEY: (401, "invalid_access_key", "This API access key is not known"),
        Reason.BAD_REQUEST: (422, "validation_error", f"Not valid: {error.about}"),
    }.get(error.why, (404, "404_not_found", "There is no such route"))
    return reply({"error": {"code": code, "message": words}}, status)


VENDOR = Vendor(
    name="marketstack",
    routes={
        "GET /v2/eod": end_of_day,
        "GET /v2/eod/latest": latest,
        "GET /v2/intraday/latest": live,
        "GET /v2/splits": splits,
        "GET /v2/dividends": dividends,
    },
    refused=refused,
    key_in=lambda ask: ask.fields.get("access_key", ""),
    weight=lambda ask: max(1, len(ask.symbols("symbols"))),
)
