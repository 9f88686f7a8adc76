"""Alpaca, played: bars of several symbols on pages that are filled symbol by symbol, snapshots, chains, corporate actions."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime, timedelta

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import SECRETS, Reason, RefusedError, Vendor, VendorRequest, frame, iso, page, reply, seconds
from services.fetcher.adapter.events import Contract, Quote
from services.fetcher.adapter.fields import LENGTHS, NEW_YORK, day_start
from services.fetcher.provider import Reply

TIMEFRAMES: dict[str, Timeframe] = {
    "1Min": "1m", "5Min": "5m", "15Min": "15m", "30Min": "30m", "1Hour": "1h", "1Day": "1d", "1Week": "1wk", "1Month": "1mo"
}  # fmt: skip
MOST_BARS, MOST_CONTRACTS = 10_000, 100
DAY = timedelta(days=1)


def bars(ask: VendorRequest) -> object:
    """Raw bars, both ends of the range included; who is unknown has none."""
    timeframe = frame(TIMEFRAMES, ask.fields["timeframe"])
    last = datetime.fromisoformat(ask.fields["end"]) if "end" in ask.fields else ask.now
    first = datetime.fromisoformat(ask.fields["start"]) if "start" in ask.fields else last - DAY
    rows = []
    for symbol in sorted(_known(ask)):
        for bar in ask.market.bars(symbol, timeframe, first.date() - DAY, last.date()):
            at = _start(ask, symbol, bar, timeframe)
            if first <= at <= last:
                rows.append((symbol, _bar(bar, at)))
    told: dict[str, list[object]] = defaultdict(list)
    here, after = page(rows, int(ask.fields.get("page_token", "0")), min(int(ask.fields.get("limit", "1000")), MOST_BARS))
    for symbol, row in here:
        told[symbol].append(row)
    return {"bars": told, "next_page_token": None if after is None else str(after)}


def newest(ask: VendorRequest) -> object:
    """The last minute of each symbol."""
    return {"bars": {symbol: _bar(bar, bar.at) for symbol in _known(ask) if (bar := _minute(ask, symbol))}}


def _minute(ask: VendorRequest, symbol: str) -> Bar | None:
    minutes = ask.market.bars(symbol, "1m", ask.now.date() - 5 * DAY, ask.now.date())
    return minutes[-1] if minutes else None


def _start(ask: VendorRequest, symbol: str, bar: Bar, timeframe: Timeframe) -> datetime:
    return bar.at if timeframe in LENGTHS else day_start(bar.at.date(), ask.market.zone(symbol))


def _bar(bar: Bar, at: datetime) -> dict[str, object]:
    return {"t": iso(at), **{name[0]: value for name, value in bar.prices.items()}, "v": bar.volume}


def snapshots(ask: VendorRequest) -> object:
    """By symbol at the top; null of who is unknown."""
    known = set(_known(ask))
    return {symbol: _snapshot(ask, symbol) if symbol in known else None for symbol in ask.symbols("symbols")}


def crypto_snapshots(ask: VendorRequest) -> object:
    """Likewise, in a wrapper, without the unknown."""
    return {"snapshots": {symbol: _snapshot(ask, symbol) for symbol in _known(ask)}}


def _snapshot(ask: VendorRequest, symbol: str) -> dict[str, object]:
    spot, today = ask.market.quote(symbol), ask.now.date()
    days = ask.market.bars(symbol, "1d", today - 10 * DAY, today)
    old, new = days[-2:]
    sessions = {name: _bar(bar, day_start(bar.session, NEW_YORK)) for name, bar in (("prevDailyBar", old), ("dailyBar", new))}
    return {"latestTrade": {"t": _at(spot), "p": spot.price}, "latestQuote": _quote(spot), **sessions}


def _quote(spot: Quote | Contract) -> dict[str, object]:
    return {"t": _at(spot), "bp": spot.bid or 0, "ap": spot.ask or 0}


def _at(spot: Quote | Contract) -> str:
    return iso(spot.at) if spot.at else "0001-01-01T00:00:00Z"


def rates(ask: VendorRequest) -> object:
    """Of currency pairs, joined."""
    spots = {pair: ask.market.quote(pair) for pair in ask.symbols("currency_pairs") if not ask.market.is_dead(pair)}
    return {"rates": {pair: {"t": _at(s), "mp": s.price, "bp": s.bid, "ap": s.ask} for pair, s in spots.items()}}


def chain(ask: VendorRequest) -> object:
    """Pages of contracts; what is not computed is absent."""
    contracts = ask.market.chain(ask.known(ask.fields["underlying"]))
    here, after = page(contracts, int(ask.fields.get("page_token", "0")), MOST_CONTRACTS)
    return {"snapshots": {row.contract: _contract(row) for row in here}, "next_page_token": None if after is None else str(after)}


def _contract(row: Contract) -> Mapping[str, object]:
    told: dict[str, object] = {"latestQuote": _quote(row)}
    if row.iv is None:
        return told
    greeks = {name: getattr(row, name) for name in ("delta", "gamma", "theta", "vega")}
    return told | {"latestTrade": {"t": _at(row), "p": row.last}, "impliedVolatility": row.iv, "greeks": greeks}


def actions(ask: VendorRequest) -> object:
    """By kind; those that are processed in the range."""
    first, last = ask.day("start", date(1990, 1, 1)), ask.day("end", ask.now.date())
    splits, dividends = [], []
    for symbol in _known(ask):
        for action in ask.market.actions(symbol, first, last):
            if action.kind == "split":
                splits.append({"symbol": symbol, "new_rate": action.value, "old_rate": 1, "ex_date": str(action.date)})
            else:
                dividends.append({"symbol": symbol, "rate": action.value, "ex_date": str(action.date)})
    return {"corporate_actions": {"forward_splits": splits, "cash_dividends": dividends}, "next_page_token": None}


def _known(ask: VendorRequest) -> list[str]:
    return [ask.known(symbol) for symbol in ask.symbols("symbols") if not ask.market.is_dead(symbol)]


def key_in(ask: VendorRequest) -> str:
    """Both keys; one alone is none."""
    key, secret = (ask.headers.get(f"apca-api-{name}", "") for name in ("key-id", "secret-key"))
    return f"{key} {secret}" if key and secret else ""


def refused(error: RefusedError) -> Reply:
    """A message; no keys and wrong keys are forbidden alike."""
    if error.why is Reason.THROTTLED:
        reset = str(seconds(error.again_at) + 1)
        return reply({"message": "too many requests."}, 429, x_ratelimit_remaining="0", x_ratelimit_reset=reset)
    status, words = {
        Reason.UNKNOWN: (404, f"{error.about} not found"),
        Reason.PAID: (403, f"subscription does not permit {error.about}"),
        Reason.BAD_REQUEST: (400, f"not valid: {error.about}"),
        Reason.NO_SUCH_PATH: (404, "endpoint not found."),
    }.get(error.why, (403, "forbidden."))
    return reply({"message": words}, status)


VENDOR = Vendor(
    name="alpaca",
    routes={
        "GET /v2/stocks/bars": bars,
        "GET /v1beta3/crypto/us/bars": bars,
        "GET /v2/stocks/bars/latest": newest,
        "GET /v1beta3/crypto/us/latest/bars": newest,
        "GET /v2/stocks/snapshots": snapshots,
        "GET /v1beta3/crypto/us/snapshots": crypto_snapshots,
        "GET /v1beta1/forex/latest/rates": rates,
        "GET /v1beta1/options/snapshots/{underlying}": chain,
        "GET /v1/corporate-actions": actions,
    },
    refused=refused,
    key_in=key_in,
    key=f"{SECRETS['api_key']} {SECRETS['api_secret']}",
)
