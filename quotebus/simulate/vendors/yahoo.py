"""Yahoo, played: charts for every visitor; quotes and option chains by cookie and crumb. It has no keys and no plans."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from struct import pack, unpack

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, frame, reply, seconds
from services.fetcher.adapter.events import Contract
from services.fetcher.adapter.fields import LENGTHS, day_start
from services.fetcher.provider import Reply

INTERVALS: dict[str, Timeframe] = {
    "1m": "1m", "5m": "5m", "15m": "15m", "30m": "30m", "60m": "1h", "1h": "1h", "1d": "1d", "1wk": "1wk", "1mo": "1mo"
}  # fmt: skip
KINDS = {"share": "EQUITY", "fx": "CURRENCY", "crypto": "CRYPTOCURRENCY"}
CRUMB, COOKIE = "simulated.Crumb", "A3=simulated"
UNCOMPUTED = 0.00001  # the volatility of a contract without quotes


def chart(ask: VendorRequest) -> object:
    """Columns of bars, split-adjusted in single precision, with the events of the range. An empty range has no columns."""
    symbol, today = ask.fields["symbol"], ask.now
    if ask.market.is_dead(symbol):
        raise RefusedError(Reason.UNKNOWN, symbol)
    timeframe = frame(INTERVALS, ask.fields.get("interval", "1d"))
    first, last = ask.epoch("period1", today - timedelta(days=1)), ask.epoch("period2", today)
    bars = ask.market.bars(symbol, timeframe, first.date(), last.date(), split_adjusted=True)
    rows = [(at, bar) for bar in bars if first <= (at := _stamp(ask, symbol, bar, timeframe)) < last]
    found = ask.market.instrument(symbol)
    meta = {
        "currency": found.currency,
        "symbol": symbol,
        "instrumentType": KINDS[found.kind],
        "exchangeTimezoneName": ask.market.zone(symbol),
        "regularMarketTime": seconds(ask.market.quote(symbol).at or ask.now),
    }
    columns = {name: [_single(bar.prices[name]) for _, bar in rows] for name in ("open", "high", "low", "close")}
    quote = {**columns, "volume": [bar.volume for _, bar in rows]} if rows else {}
    result: dict[str, object] = {"meta": meta, "indicators": {"quote": [quote]}}
    if rows:
        result["timestamp"] = [seconds(at) for at, _ in rows]
        if timeframe not in LENGTHS:
            result["indicators"] = {"quote": [quote], "adjclose": [{"adjclose": [_single(bar.adjusted) for _, bar in rows]}]}
        result["events"] = _events(ask, symbol, rows)
    return {"chart": {"result": [result], "error": None}}


def _stamp(ask: VendorRequest, symbol: str, bar: Bar, timeframe: Timeframe) -> datetime:
    """A day's is the opening of its session, a week's or month's the midnight it begins with."""
    if timeframe in LENGTHS:
        return bar.at
    return bar.opens_at if timeframe == "1d" else day_start(bar.at.date(), ask.market.zone(symbol))


def _events(ask: VendorRequest, symbol: str, rows: Sequence[tuple[datetime, Bar]]) -> dict[str, object]:
    dividends, splits = {}, {}
    found = ask.market.instrument(symbol)
    for action in ask.market.actions(symbol, rows[0][1].at.date(), rows[-1][1].session):
        date = seconds(found.opens_at(action.date))
        if action.kind == "split":
            splits[str(date)] = {"date": date, "numerator": action.value, "denominator": 1, "splitRatio": f"{action.value:g}:1"}
        else:
            amount = _single(action.value / ask.market.split_factor(symbol, action.date))
            dividends[str(date)] = {"date": date, "amount": amount}
    return {name: events for name, events in (("dividends", dividends), ("splits", splits)) if events}


def quotes(ask: VendorRequest) -> object:
    """Of several symbols; who is unknown is left out."""
    told = []
    for symbol in ask.symbols("symbols"):
        if ask.market.is_dead(symbol):
            continue
        spot, found = ask.market.quote(symbol), ask.market.instrument(symbol)
        prices = {
            "regularMarketPrice": spot.price,
            "bid": spot.bid,
            "ask": spot.ask,
            "regularMarketPreviousClose": spot.previous_close,
        }
        row = {name: _single(value) for name, value in prices.items() if value is not None}
        kind = {"symbol": symbol, "quoteType": KINDS[found.kind], "currency": found.currency}
        told.append({**kind, **row, "regularMarketVolume": spot.volume, "regularMarketTime": seconds(spot.at or ask.now)})
    return {"quoteResponse": {"result": told, "error": None}}


def options(ask: VendorRequest) -> object:
    """The contracts of one expiration, the first if none is named, and the dates of all."""
    symbol = ask.fields["symbol"]
    if ask.market.is_dead(symbol):
        return {"optionChain": {"result": [], "error": None}}
    contracts = ask.market.chain(symbol)
    dates = sorted({_midnight(contract) for contract in contracts})
    date = int(ask.fields.get("date") or dates[0])
    rows = [contract for contract in contracts if _midnight(contract) == date]
    sides = {f"{right}s": [_contract(row) for row in rows if row.right == right] for right in ("call", "put")}
    expiration = {"expirationDate": date, "hasMiniOptions": False, **sides}
    strikes = sorted({contract.strike for contract in contracts})
    result = {"underlyingSymbol": symbol, "expirationDates": dates, "strikes": strikes, "options": [expiration]}
    return {"optionChain": {"result": [result], "error": None}}


def _contract(row: Contract) -> dict[str, object]:
    told = {
        "contractSymbol": row.contract,
        "strike": row.strike,
        "currency": "USD",
        "bid": row.bid or 0.0,
        "ask": row.ask or 0.0,
        "impliedVolatility": row.iv or UNCOMPUTED,
        "expiration": _midnight(row),
        "lastPrice": row.last or 0.0,
    }
    # What never traded has no such keys.
    return told | ({"volume": row.volume, "openInterest": row.open_interest, "lastTradeDate": seconds(row.at)} if row.at else {})


def _midnight(row: Contract) -> int:
    return seconds(datetime.combine(row.expiry, time(), UTC))


def _single(value: float) -> float:
    """The value as a float32 has it."""
    told: float = unpack("f", pack("f", value))[0]
    return told


def crumb_in(ask: VendorRequest) -> str:
    """The crumb, which is worth nothing without its cookie."""
    return ask.fields.get("crumb", "") if COOKIE in ask.headers.get("cookie", "") else ""


def refused(error: RefusedError) -> Reply:
    """An envelope with an error; whoever asks too often gets a sentence."""
    if error.why is Reason.THROTTLED:
        return reply("Too Many Requests\r\n", 429, "text/plain")
    status, code, words = {
        Reason.UNKNOWN: (404, "Not Found", f"No data found for {error.about}, symbol may be delisted"),
        Reason.NO_KEY: (401, "Unauthorized", "Invalid Cookie"),
        Reason.WRONG_KEY: (401, "Unauthorized", "Invalid Crumb"),
        Reason.BAD_REQUEST: (422, "Unprocessable Entity", f"Invalid input {error.about}"),
    }.get(error.why, (404, "Not Found", "No such page"))
    return reply(
        {"chart" if error.why is Reason.UNKNOWN else "finance": {"result": None, "error": {"code": code, "description": words}}},
        status,
    )


OPEN = {
    "GET /v8/finance/chart/{symbol}": chart,
    "GET /": lambda _ask: reply("", 404, "text/html", set_cookie=f"{COOKIE}; Path=/; Secure"),
    "GET /v1/test/getcrumb": lambda _ask: reply(CRUMB, kind="text/plain"),
}
VENDOR = Vendor(
    name="yahoo",
    routes={**OPEN, "GET /v7/finance/quote": quotes, "GET /v7/finance/options/{symbol}": options},
    refused=refused,
    key_in=crumb_in,
    key=CRUMB,
    open_routes=frozenset(OPEN),
)
