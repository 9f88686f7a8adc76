"""Tiingo, played: end-of-day and IEX bars, tops of books, crypto and currency pairs."""

from contracts.message import Timeframe
from quotebus.simulate.market import Bar
from quotebus.simulate.vendor import Reason, RefusedError, Vendor, VendorRequest, frame, iso, reply
from services.fetcher.adapter.events import Quote
from services.fetcher.provider import Reply

SESSIONS: dict[str, Timeframe] = {"daily": "1d", "weekly": "1wk", "monthly": "1mo"}
MINUTES: dict[str, Timeframe] = {"1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "1hour": "1h", "1day": "1d"}
MOST_POINTS = 2000
ALLOWANCES = {"hour": "hourly", "day": "daily", "month": "monthly"}


def end_of_day(ask: VendorRequest) -> object:
    """The bars of a range; without one the latest."""
    ticker, today = ask.known(ask.fields["ticker"]), ask.now.date()
    timeframe = frame(SESSIONS, ask.fields.get("resampleFreq", "daily"))
    first = ask.day("startDate", today.replace(month=1, day=1))
    bars = ask.market.bars(ticker, timeframe, first, ask.day("endDate", today))
    columns = ask.fields.get("columns", "")
    rows = [_session(bar) for bar in (bars if "startDate" in ask.fields else bars[-1:])]
    return [{name: value for name, value in row.items() if name in f"date,{columns}" or not columns} for row in rows]


def _session(bar: Bar) -> dict[str, object]:
    factor = bar.close / bar.adjusted
    return {
        "date": f"{bar.session}T00:00:00.000Z",
        **bar.prices,
        "volume": bar.volume,
        **{f"adj{name.title()}": round(value / factor, 6) for name, value in bar.prices.items()},
        "adjVolume": bar.volume,
        "divCash": bar.dividend,
        "splitFactor": bar.split,
    }


def intraday(ask: VendorRequest) -> object:
    """The newest points of a range; their volume only when its column is asked for."""
    ticker = ask.known(ask.fields["ticker"])
    rows = [{"date": iso(bar.at), **bar.prices, "volume": bar.volume} for bar in _bars(ask, ticker)]
    columns = ("date", *ask.fields.get("columns", "open,high,low,close").split(","))
    return [{name: row[name] for name in columns} for row in rows[-MOST_POINTS:]]


def currency_bars(ask: VendorRequest) -> object:
    """A currency pair's."""
    ticker = ask.known(ask.fields["ticker"])
    return [{"ticker": ticker, "date": iso(bar.at), **bar.prices} for bar in _bars(ask, ticker)[-MOST_POINTS:]]


def crypto_bars(ask: VendorRequest) -> object:
    """Of several pairs."""
    told = []
    for ticker in ask.symbols("tickers"):
        rows = [{"date": iso(bar.at), **bar.prices, "volume": bar.volume} for bar in _bars(ask, ask.known(ticker))]
        told.append({"ticker": ticker, "quoteCurrency": ask.market.instrument(ticker).currency.lower(), "priceData": rows})
    return told


def _bars(ask: VendorRequest, ticker: str) -> list[Bar]:
    timeframe, today = frame(MINUTES, ask.fields.get("resampleFreq", "5min")), ask.now.date()
    return ask.market.bars(ticker, timeframe, ask.day("startDate", today), ask.day("endDate", today))


def tops(ask: VendorRequest) -> object:
    """The tops of books; who is unknown is left out. Bid, ask and last of IEX want an agreement with it."""
    known = [t for t in ask.symbols("tickers") if not ask.market.is_dead(t) and not ask.market.is_paid(t)]
    return [_top(ticker, ask.market.quote(ticker), ask.path) for ticker in known]


def _top(ticker: str, spot: Quote, path: str) -> dict[str, object]:
    at = iso(spot.at) if spot.at else None
    book: dict[str, object] = {"quoteTimestamp": at, "bidPrice": spot.bid, "askPrice": spot.ask}
    if "crypto" in path:
        return {"ticker": ticker, "topOfBookData": [book | {"lastPrice": spot.price}]}
    if "/fx/" in path:
        return {"ticker": ticker, "midPrice": spot.price, **book}
    share = {"timestamp": at, "last": None, "tngoLast": spot.price, "prevClose": spot.previous_close, "volume": spot.volume}
    return {"ticker": ticker, **share, "bidPrice": None, "askPrice": None, "quoteTimestamp": at}


def key_in(ask: VendorRequest) -> str:
    """In a header, or in the query."""
    return ask.headers.get("authorization", "").removeprefix("Token ") or ask.fields.get("token", "")


def refused(error: RefusedError) -> Reply:
    """A sentence under `detail`."""
    status, words = {
        Reason.UNKNOWN: (404, f"Error: Ticker '{error.about}' not found"),
        Reason.PAID: (403, f"Error: {error.about} is part of a larger subscription"),
        Reason.THROTTLED: (429, f"Error: You have run over your {ALLOWANCES.get(error.about, error.about)} allocation."),
        Reason.NO_KEY: (403, "Please supply a token"),
        Reason.WRONG_KEY: (401, "Invalid token."),
        Reason.BAD_REQUEST: (400, f"Error: {error.about} is not valid"),
    }.get(error.why, (404, "Not found."))
    return reply({"detail": words}, status)


VENDOR = Vendor(
    name="tiingo",
    routes={
        "GET /tiingo/daily/{ticker}/prices": end_of_day,
        "GET /iex/{ticker}/prices": intraday,
        "GET /iex/": tops,
        "GET /tiingo/crypto/prices": crypto_bars,
        "GET /tiingo/crypto/top": tops,
        "GET /tiingo/fx/top": tops,
        "GET /tiingo/fx/{ticker}/prices": currency_bars,
    },
    refused=refused,
    key_in=key_in,
)
