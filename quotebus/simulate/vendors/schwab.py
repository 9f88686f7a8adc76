"""Schwab, played: tokens for a login, candles, quotes by symbol with the unknown beside them, chains as maps of maps."""

from base64 import b64encode
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import SECRETS, Reason, RefusedError, Vendor, VendorRequest, frame, reply, seconds
from services.fetcher.adapter.events import Contract
from services.fetcher.adapter.fields import LENGTHS, day_start
from services.fetcher.provider import Reply

ROOT = "/marketdata/v1"
FREQUENCIES: dict[str, Timeframe] = {
    "minute/1": "1m", "minute/5": "5m", "minute/15": "15m", "minute/30": "30m",
    "daily/1": "1d", "weekly/1": "1wk", "monthly/1": "1mo",
}  # fmt: skip
CHICAGO = "America/Chicago"
LASTS_S = 1800
ACCESS = "simulated-access"
APPLICATION = b64encode(f"{SECRETS['api_key']}:{SECRETS['api_secret']}".encode()).decode()
UNCOMPUTED = -999.0
DAY = timedelta(days=1)


def token(ask: VendorRequest) -> object:
    """An access token for the right application and login."""
    if ask.headers.get("authorization") != f"Basic {APPLICATION}":
        return reply({"error": "invalid_client", "error_description": "Unauthorized"}, 401)
    if ask.fields.get("refresh_token") != SECRETS["refresh_token"]:
        words = "refresh_token_authentication_error: the token is not valid"
        return reply({"error": "unsupported_token_type", "error_description": words}, 400)
    granted = {
        "access_token": f"{ACCESS}-{seconds(ask.now) + LASTS_S}",
        "refresh_token": SECRETS["refresh_token"],
        "expires_in": LASTS_S,
        "token_type": "Bearer",
    }
    return granted | {"scope": "api", "id_token": "simulated"}


def history(ask: VendorRequest) -> object:
    """Candles of whole days, adjusted for splits; a day is stamped with midnight in Chicago. Unknown is empty."""
    symbol = _plain(ask.fields["symbol"])
    if ask.market.is_dead(symbol):
        raise RefusedError(Reason.UNKNOWN, symbol)
    timeframe = frame(FREQUENCIES, f"{ask.fields['frequencyType']}/{ask.fields['frequency']}")
    last = ask.epoch("endDate", ask.now, 1000)
    first = ask.epoch("startDate", last - DAY, 1000)
    bars = ask.market.bars(ask.known(symbol), timeframe, first.date(), last.date(), split_adjusted=True)
    candles = [{"datetime": _stamp(bar, timeframe), **bar.prices, "volume": bar.volume} for bar in bars]
    return {"symbol": ask.fields["symbol"], "empty": not candles, "candles": candles}


def _stamp(bar: Bar, timeframe: Timeframe) -> int:
    return _milliseconds(bar.at if timeframe in LENGTHS else day_start(bar.at.date(), CHICAGO))


def quotes(ask: VendorRequest) -> object:
    """By symbol; the unknown are a list beside them."""
    told: dict[str, object] = {}
    unknown = []
    for symbol in ask.symbols("symbols"):
        if ask.market.is_dead(_plain(symbol)):
            unknown.append(symbol)
            continue
        spot = ask.market.quote(ask.known(_plain(symbol)))
        at = _milliseconds(spot.at or ask.now)
        prices = {"lastPrice": spot.price, "bidPrice": spot.bid, "askPrice": spot.ask, "closePrice": spot.previous_close}
        quote = {**prices, "totalVolume": spot.volume, "quoteTime": at, "tradeTime": at}
        kind = "EQUITY" if ask.kind(_plain(symbol)) == "share" else "FOREX"
        told[symbol] = {"assetMainType": kind, "symbol": symbol, "realtime": True, "quote": quote}
    return told | ({"errors": {"invalidSymbols": unknown}} if unknown else {})


def chain(ask: VendorRequest) -> object:
    """The contracts between two expirations, by expiration and strike."""
    symbol = _plain(ask.fields["symbol"])
    first, last = ask.day("fromDate", date.min), ask.day("toDate", date.max)
    side = ask.fields.get("contractType", "ALL")
    maps: dict[str, dict[str, dict[str, list[object]]]] = {"call": defaultdict(dict), "put": defaultdict(dict)}
    for row in ask.market.chain(ask.known(symbol)):
        if first <= row.expiry <= last and side in ("ALL", row.right.upper()):
            strikes = maps[row.right][f"{row.expiry}:{(row.expiry - ask.now.date()).days}"]
            strikes.setdefault(str(row.strike), []).append(_contract(row))
    spot = ask.market.quote(symbol)
    head = {"symbol": symbol, "status": "SUCCESS", "underlyingPrice": spot.price, "isDelayed": False}
    return head | {"callExpDateMap": maps["call"], "putExpDateMap": maps["put"]}


def expirations(ask: VendorRequest) -> object:
    """The days on which contracts expire."""
    days = sorted({row.expiry for row in ask.market.chain(ask.known(_plain(ask.fields["symbol"])))})
    return {"expirationList": [{"expirationDate": str(day)} for day in days]}


def _contract(row: Contract) -> dict[str, object]:
    """A name of 21 characters. Without quotes all is zero, and what would have to be computed is a number no price can be."""
    at = _milliseconds(row.at) if row.at else 0
    greeks = {name: UNCOMPUTED if row.iv is None else getattr(row, name) for name in ("delta", "gamma", "theta", "vega")}
    prices = {name: getattr(row, name) or 0.0 for name in ("bid", "ask", "last", "mark")}
    counts = {"totalVolume": row.volume, "openInterest": row.open_interest, "quoteTimeInLong": at, "tradeTimeInLong": at}
    name = f"{row.contract[:-15]:<6}{row.contract[-15:]}"
    expiry = datetime.combine(row.expiry, time(20), UTC).isoformat()
    told = {"putCall": row.right.upper(), "symbol": name, "strikePrice": row.strike, "expirationDate": expiry}
    return {**told, **prices, **counts, **greeks, "volatility": UNCOMPUTED if row.iv is None else row.iv * 100}


def _plain(symbol: str) -> str:
    return symbol.replace("$", "^")


def _milliseconds(at: datetime) -> int:
    return seconds(at) * 1000


def key_in(ask: VendorRequest) -> str:
    """The access token, without its end, unless that has come."""
    given = ask.headers.get("authorization", "").removeprefix("Bearer ")
    access, _, until = given.rpartition("-")
    return access if until.isdigit() and int(until) > seconds(ask.now) else given


def refused(error: RefusedError) -> Reply:
    """A list of errors."""
    status, words = {
        Reason.UNKNOWN: (404, f"Symbol {error.about} not found"),
        Reason.PAID: (403, f"This application has no access to {error.about}"),
        Reason.THROTTLED: (429, f"Too many requests in a {error.about}"),
        Reason.NO_KEY: (401, "Client not authorized"),
        Reason.WRONG_KEY: (401, "Client not authorized"),
        Reason.BAD_REQUEST: (400, f"Not valid: {error.about}"),
    }.get(error.why, (404, "No such resource"))
    return reply({"errors": [{"id": "simulated", "status": str(status), "title": "Refused", "detail": words}]}, status)


VENDOR = Vendor(
    name="schwab",
    routes={
        "POST /v1/oauth/token": token,
        f"GET {ROOT}/pricehistory": history,
        f"GET {ROOT}/quotes": quotes,
        f"GET {ROOT}/chains": chain,
        f"GET {ROOT}/expirationchain": expirations,
    },
    refused=refused,
    key_in=key_in,
    key=ACCESS,
    open_routes=frozenset({"POST /v1/oauth/token"}),
)
