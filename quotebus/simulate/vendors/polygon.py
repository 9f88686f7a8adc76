"""Polygon, played: aggregates, snapshots, chains and corporate actions, each a page of an envelope that links to the next."""

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from urllib.parse import urlencode

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, frame, page, reply, seconds
from services.fetcher.adapter.events import Contract
from services.fetcher.adapter.fields import EPOCH, LENGTHS, NEW_YORK, day_start
from services.fetcher.provider import Reply

SPANS: dict[str, Timeframe] = {
    "1/minute": "1m", "5/minute": "5m", "15/minute": "15m", "30/minute": "30m",
    "1/hour": "1h", "1/day": "1d", "1/week": "1wk", "1/month": "1mo",
}  # fmt: skip
MOST_BASES, MOST_CONTRACTS, MOST_ACTIONS = 50_000, 250, 1000
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
LISTED = (
    "AAPL", "ABBV", "AMD", "AMZN", "BAC", "BRK.B", "CAT", "COST", "CSCO", "CVX", "DIS", "GE", "GOOG", "GOOGL", "GS", "HD", "IBM",
    "INTC", "JNJ", "JPM", "KO", "LLY", "MA", "MCD", "META", "MRK", "MSFT", "NFLX", "NKE", "NVDA", "ORCL", "PEP", "PFE", "PG", "QQQ",
    "SPY", "T", "TSLA", "UNH", "V", "VZ", "WFC", "WMT", "XOM",
)  # fmt: skip
STOCKS = "/v2/snapshot/locale/us/markets/stocks/tickers"
PAIRS = "/v2/snapshot/locale/global/markets/{market}/tickers"


def aggregates(ask: VendorRequest) -> object:
    """Bars, adjusted for splits unless told otherwise; a page is made of at most so many minutes, or days."""
    symbol = _plain(ask.fields["ticker"])
    timeframe = frame(SPANS, f"{ask.fields['multiplier']}/{ask.fields['span']}")
    if ask.market.is_dead(symbol):
        return _envelope(ask, [], None)
    zone = ask.market.zone(ask.known(symbol))
    first, last = _instant(ask.fields["first"], zone), _instant(ask.fields["last"], zone, after=True)
    adjusted = ask.fields.get("adjusted", "true") == "true"
    bars = ask.market.bars(symbol, timeframe, first.date() - DAY, last.date() + DAY, split_adjusted=adjusted)
    starts = [(bar, _start(bar, zone, timeframe)) for bar in bars]
    # A week or month that the range begins in is there as a whole.
    rows = [_bar(bar, at) for bar, at in starts if first <= max(at, bar.opens_at if timeframe not in LENGTHS else at) and at < last]
    bases = max(1, LENGTHS[timeframe] // MINUTE) if timeframe in LENGTHS else 1
    limit = min(int(ask.fields.get("limit", "5000")), MOST_BASES) // bases
    here, after = page(rows, int(ask.fields.get("cursor", "0")), limit)
    return _envelope(ask, here, after) | {"adjusted": adjusted, "resultsCount": len(here)}


def _start(bar: Bar, zone: str, timeframe: Timeframe) -> datetime:
    """A week begins on Sunday."""
    if timeframe in LENGTHS:
        return bar.at
    return day_start(bar.at.date() - (DAY if timeframe == "1wk" else timedelta()), zone)


def _instant(text: str, zone: str, *, after: bool = False) -> datetime:
    """The instant, or the day's beginning; `after`: the first one after it."""
    if "-" in text:
        return day_start(date.fromisoformat(text) + (DAY if after else timedelta()), zone)
    return EPOCH + timedelta(milliseconds=int(text) + int(after))


def _bar(bar: Bar, at: datetime) -> dict[str, object]:
    return {"t": seconds(at) * 1000, **{name[0]: value for name, value in bar.prices.items()}, "v": bar.volume}


def whole_market(ask: VendorRequest) -> object:
    """A day of all shares; as a made-up market has no end, of those that are listed here."""
    day = ask.day("day", ask.now.date())
    rows = [(symbol, bar) for symbol in LISTED for bar in ask.market.bars(symbol, "1d", day, day, split_adjusted=True)]
    told: list[object] = [{"T": symbol, **_bar(bar, day_start(day, NEW_YORK))} for symbol, bar in rows]
    return _envelope(ask, told, None) | {"adjusted": True, "resultsCount": len(told)}


def snapshot(ask: VendorRequest) -> object:
    """Of one ticker."""
    return {"status": "OK", "ticker": _snapshot(ask, _existing(ask, ask.fields["ticker"]))}


def snapshots(ask: VendorRequest) -> object:
    """Of several; who is unknown is left out."""
    known = [t for t in ask.symbols("tickers") if not ask.market.is_dead(_plain(t)) and ask.known(_plain(t))]
    return {"status": "OK", "count": len(known), "tickers": [_snapshot(ask, ticker) for ticker in known]}


def _snapshot(ask: VendorRequest, ticker: str) -> dict[str, object]:
    symbol = _plain(ticker)
    spot = ask.market.quote(symbol)
    at = seconds(spot.at or ask.now) * 10**9
    quote = {"p": spot.bid, "P": spot.ask, "t": at} if ask.kind(symbol) == "share" else {"b": spot.bid, "a": spot.ask, "t": at}
    day, before = {"c": spot.price, "v": spot.volume}, {"c": spot.previous_close}
    return {
        "ticker": ticker,
        "lastQuote": quote,
        "lastTrade": {"p": spot.price, "t": at},
        "day": day,
        "prevDay": before,
        "updated": at,
    }


def chain(ask: VendorRequest) -> object:
    """Contracts; what is not computed is absent."""
    symbol = _plain(_existing(ask, ask.fields["underlying"]))
    limit = min(int(ask.fields.get("limit", "10")), MOST_CONTRACTS)
    here, after = page(ask.market.chain(symbol), int(ask.fields.get("cursor", "0")), limit)
    return _envelope(ask, [_contract(row) for row in here], after)


def _contract(row: Contract) -> dict[str, object]:
    details = {
        "ticker": f"O:{row.contract}",
        "contract_type": row.right,
        "expiration_date": str(row.expiry),
        "strike_price": row.strike,
    }
    told: dict[str, object] = {"details": details, "open_interest": row.open_interest, "greeks": {}, "day": {}}
    if row.at is None:
        return told
    at = seconds(row.at) * 10**9
    quote = {"bid": row.bid, "ask": row.ask, "midpoint": row.mark, "last_updated": at, "timeframe": "REAL-TIME"}
    trade = {"price": row.last, "sip_timestamp": at}
    greeks = {name: getattr(row, name) for name in ("delta", "gamma", "theta", "vega")}
    day = {"volume": row.volume, "close": row.last, "last_updated": at}
    return told | {"last_quote": quote, "last_trade": trade, "day": day, "greeks": greeks, "implied_volatility": row.iv}


def splits(ask: VendorRequest) -> object:
    """Those of a range."""
    rows = _actions(ask, "split", "execution_date")
    return _listed(ask, ({"execution_date": day, "split_from": 1, "split_to": value} for day, value in rows))


def dividends(ask: VendorRequest) -> object:
    """Likewise, as they were paid."""
    rows = _actions(ask, "dividend", "ex_dividend_date")
    return _listed(ask, ({"ex_dividend_date": day, "cash_amount": value, "currency": "USD"} for day, value in rows))


def _actions(ask: VendorRequest, kind: str, name: str) -> list[tuple[str, float]]:
    ticker = ask.fields["ticker"]
    if ask.market.is_dead(ticker):
        return []
    first, after = ask.day(f"{name}.gte", date(1950, 1, 1)), ask.day(f"{name}.lt", ask.now.date() + DAY)
    found = ask.market.actions(ask.known(ticker), first, after - DAY)
    return [(str(action.date), action.value) for action in found if action.kind == kind]


def _listed(ask: VendorRequest, rows: Iterable[dict[str, object]]) -> object:
    told: list[object] = [{"ticker": ask.fields["ticker"], **row} for row in rows]
    return _envelope(ask, *page(told, int(ask.fields.get("cursor", "0")), MOST_ACTIONS))


def _envelope(ask: VendorRequest, rows: list[object] | list[dict[str, object]], after: int | None) -> dict[str, object]:
    """Without rows there is no `results`; the link to the next page comes without the key."""
    told: dict[str, object] = {"status": "OK", "request_id": "simulated"}
    told |= {"results": rows} if rows else {}
    return told if after is None else told | {"next_url": f"https://api.polygon.io{ask.path}?{urlencode({'cursor': after})}"}


def _existing(ask: VendorRequest, ticker: str) -> str:
    ask.known(_plain(ticker))
    return ticker


def _plain(ticker: str) -> str:
    """The symbol without the prefix of its market."""
    return ticker.removeprefix("X:").removeprefix("C:")


def key_in(ask: VendorRequest) -> str:
    """In a header, or in the query."""
    return ask.headers.get("authorization", "").removeprefix("Bearer ") or ask.fields.get("apiKey", "")


def refused(error: RefusedError) -> Reply:
    """A status with words."""
    code, status, words = {
        Reason.UNKNOWN: (404, "NOT_FOUND", f"{error.about} was not found"),
        Reason.PAID: (403, "NOT_AUTHORIZED", f"Your plan does not include {error.about}"),
        Reason.THROTTLED: (429, "ERROR", f"You have made the maximum requests per {error.about}"),
        Reason.NO_KEY: (401, "ERROR", "API Key was not provided"),
        Reason.WRONG_KEY: (401, "ERROR", "Unknown API Key"),
        Reason.BAD_REQUEST: (400, "ERROR", f"Not valid: {error.about}"),
    }.get(error.why, (404, "NOT_FOUND", "page not found"))
    return reply({"status": status, "request_id": "simulated", "error": words}, code)


VENDOR = Vendor(
    name="polygon",
    routes={
        "GET /v2/aggs/ticker/{ticker}/range/{multiplier}/{span}/{first}/{last}": aggregates,
        "GET /v2/aggs/grouped/locale/us/market/stocks/{day}": whole_market,
        **{f"GET {path}": snapshots for path in (STOCKS, PAIRS)},
        **{f"GET {path}/{{ticker}}": snapshot for path in (STOCKS, PAIRS)},
        "GET /v3/snapshot/options/{underlying}": chain,
        "GET /v3/reference/splits": splits,
        "GET /v3/reference/dividends": dividends,
    },
    refused=refused,
    key_in=key_in,
)
