"""Finnhub: quotes, bars of shares, currency pairs and crypto pairs, splits and dividends. A free key has the quotes only.

Source: https://finnhub.io/docs/api
Limits: a free key has 60 calls a minute, every key 30 a second. An intraday answer holds a month at most, therefore longer ranges
are asked in windows; one of a currency or crypto pair may hold less, the newest, and is asked on for what lies before.
Units: daily, weekly and monthly prices are adjusted for splits, intraday prices of shares for nothing; dividends are as paid. Times
are epoch seconds. In what a share outside the United States is quoted is not said. The volume of a currency pair counts ticks.
Quirks: a daily candle is stamped at midnight in New York or, newer, in UTC; a currency's at 17:00 in New York, where the day opens
that it closes on. A quote of an unknown symbol is all zeros. A quote has no bid, ask or volume.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Action, Bar, EventBuilder, Quote
from services.fetcher.adapter.fields import (
    EPOCH,
    LENGTHS,
    NEW_YORK,
    PLAIN,
    Unit,
    day_of,
    day_start,
    from_epoch,
    number,
    pair_of,
    period_start,
    price,
    unit_of,
)
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, fetch_each, retry_after, sanitize
from services.fetcher.provider import (
    Answer,
    Credentials,
    FetchCall,
    Http,
    Limits,
    Profile,
    ProviderError,
    Reply,
    Verdict,
    refuse_unoffered,
)

RESOLUTIONS: dict[Timeframe, str] = {
    "1m": "1", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "1d": "D", "1wk": "W", "1mo": "M"
}  # fmt: skip
LATEST_DAYS: dict[Timeframe, int] = {"1m": 5, "5m": 14, "15m": 28, "30m": 28, "1h": 28, "1d": 740, "1wk": 3530, "1mo": 15300}
MONTH = timedelta(days=28)  # the shortest one
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
FOREIGN_DELAY = timedelta(minutes=15)
# No market is closed for longer: an answer that begins later than that after what was asked was cut off.
LONGEST_PAUSE = {"stock": 10 * DAY, "forex": 4 * DAY, "crypto": DAY}
PERIODS = {"1wk": 7 * DAY, "1mo": 31 * DAY}
MAX_CALLS = 500
# The brokers whose symbols (`OANDA:EUR_USD`) are under /forex; every other prefix is a crypto exchange.
BROKERS = frozenset(
    {"OANDA", "FXCM", "FOREX", "FOREX.COM", "FXPRO", "FHFX", "IC MARKETS", "ICMARKETS", "ICM", "ICMTRADER", "PEPPERSTONE", "OCTAFX"}
)
DOLLARS = frozenset({"USD", "EUR", "GBP"})  # what Coinbase quotes crypto currencies in
# The exchange codes that Finnhub puts behind a ticker, by a zone that keeps the same time as the exchange.
_CODES = {
    "America/Toronto": "TO V CN NE",
    "America/Mexico_City": "MX",
    "America/Sao_Paulo": "SA",
    "America/Argentina/Buenos_Aires": "BA",
    "America/Santiago": "SN",
    "America/Bogota": "CB",
    "Europe/London": "L LN IR LS",
    "Atlantic/Reykjavik": "IC",
    "Europe/Berlin": "DE F BE DU HM HA MU SG SX TG PA AS BR MC MI SW VI OL ST CO WA PR BD",
    "Europe/Athens": "AT HE RG TL VS RO",
    "Europe/Istanbul": "IS",
    "Europe/Moscow": "ME",
    "Asia/Jerusalem": "TA",
    "Africa/Johannesburg": "JO",
    "Africa/Cairo": "CA",
    "Asia/Riyadh": "SR",
    "Asia/Qatar": "QA",
    "Asia/Dubai": "DB",
    "Asia/Kolkata": "NS BO",
    "Asia/Bangkok": "BK",
    "Asia/Jakarta": "JK",
    "Asia/Ho_Chi_Minh": "VN",
    "Asia/Kuala_Lumpur": "KL",
    "Asia/Singapore": "SI",
    "Asia/Hong_Kong": "HK",
    "Asia/Shanghai": "SS SZ",
    "Asia/Taipei": "TW TWO",
    "Asia/Seoul": "KS KQ",
    "Asia/Tokyo": "T",
    "Australia/Sydney": "AX",
    "Pacific/Auckland": "NZ",
}
_ZONES = {code: zone for zone, codes in _CODES.items() for code in codes.split()}
# What an error's words say before its status does: the same words have come with 200, 401, 403 and 429.
SAID = (
    (Verdict.RATE_LIMITED, ("limit reached", "rate limit", "too many requests")),
    (Verdict.PLAN_RESTRICTED, ("access to this resource", "subscription", "premium", "upgrade", "your plan")),
    (Verdict.UNAUTHORIZED, ("api key", "token")),
)
UNKNOWN = ("not supported", "not found", "invalid", "unknown", "not exist", "wrong")
STATUSES = {401: Verdict.UNAUTHORIZED, 403: Verdict.PLAN_RESTRICTED, 404: Verdict.NOT_FOUND, 429: Verdict.RATE_LIMITED}
MAX_RETRY_AFTER = timedelta(days=1)
Record = Mapping[str, object]


class Market(NamedTuple):
    """`path`: the folder of its candles: stock, forex or crypto. `foreign`: a share of another country than the United States."""

    path: str
    zone: str = "UTC"
    unit: Unit = PLAIN
    foreign: bool = False

    def session_of(self, at: datetime) -> date:
        """Return the date of the session that a daily or longer candle is stamped for.

        Midnight UTC is that date itself. Otherwise a share's candle has midnight or the opening in its exchange's zone, and
        a currency's the roll at 17:00 in New York, which opens the day that it closes on.
        """
        if self.path == "crypto" or at.astimezone(UTC).time() == time():
            return at.astimezone(UTC).date()
        if self.path == "forex":
            return (at.astimezone(ZoneInfo(NEW_YORK)) + timedelta(hours=7)).date()
        return at.astimezone(ZoneInfo(self.zone)).date()


class Candle(NamedTuple):
    """A candle under the instant it is stamped with, whatever that means in its market."""

    stamp: datetime
    row: Bar


class Finnhub:
    """Finnhub with one key."""

    profile = Profile(
        name="finnhub",
        base_url="https://finnhub.io",
        offers={"bars": TIMEFRAMES, "quote": (), "actions": ()},
        basis="split",
        feed="consolidated",
        limits=Limits(per_second=30, per_minute=60),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._key = credentials.api_key

    def to_vendor(self, symbol: str) -> str:
        """`OANDA:EUR_USD` for EUR/USD, `COINBASE:BTC-USD` for BTC/USD; BRK.B is spelled as here."""
        return vendor_symbol(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. One request a symbol, for bars one a window, for splits and dividends one each."""
        refuse_unoffered(self.profile, call)
        ask = {"bars": self._bars, "quote": self._quote, "actions": self._actions}[call.dataset]
        return await fetch_each(call.symbols, lambda symbol: ask(self._builder(call, symbol, now), http))

    def _builder(self, call: FetchCall, symbol: str, now: datetime) -> EventBuilder:
        market = market_of(self.to_vendor(symbol))
        raw = market.path == "stock" and call.timeframe in LENGTHS
        until = now - FOREIGN_DELAY if market.foreign else None
        return EventBuilder(
            self.profile, call, symbol, now, market.unit, market.zone, basis="raw" if raw else None, complete_until=until
        )

    async def _quote(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        quote = parse_quote(await self._document(http, "/api/v1/quote", builder))
        if quote is None:
            raise ProviderError(Verdict.NOT_FOUND, f"finnhub: knows no {builder.symbol}")
        if quote.price is None:
            raise ProviderError(Verdict.EMPTY, f"finnhub: has no price of {builder.symbol}")
        return [builder.quote(quote, quote.at)]

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        timeframe, start, end = builder.call.timeframe or "1d", builder.call.start, builder.call.end
        if start is None or end is None:
            rows = [c.row for c in await self._candles(builder, http, builder.now - LATEST_DAYS[timeframe] * DAY, builder.now)]
            return builder.bars(rows)
        first, last = day_start(period_start(start, timeframe)), min(day_start(end), builder.now + DAY) - SECOND
        # A session may be stamped on the day before its own: in the east, and where the day opens in the evening.
        return builder.bars(await self._history(builder, http, first if timeframe in LENGTHS else first - DAY, last))

    async def _history(self, builder: EventBuilder, http: Http, first: datetime, last: datetime) -> list[Bar]:
        """Fetch the candles of a range, asked from its end backwards."""
        market, timeframe = market_of(self.to_vendor(builder.symbol)), builder.call.timeframe or "1d"
        rows: list[Bar] = []
        for _ in range(MAX_CALLS):
            if last < first:
                return rows
            begin = max(first, last - MONTH) if timeframe in LENGTHS else first
            candles = await self._candles(builder, http, begin, last)
            rows += [candle.row for candle in candles]
            earliest = min((candle.stamp for candle in candles), default=begin)
            was_cut_off = earliest - begin > _pause(market, timeframe) and earliest <= last
            last = (earliest if was_cut_off else begin) - SECOND
        raise ProviderError(
            Verdict.BAD_REQUEST, f"finnhub: {builder.symbol}: so many bars take too many calls; ask for a shorter range"
        )

    async def _candles(self, builder: EventBuilder, http: Http, begin: datetime, last: datetime) -> list[Candle]:
        market, timeframe = market_of(self.to_vendor(builder.symbol)), builder.call.timeframe or "1d"
        window = {"from": str(_epoch(begin)), "to": str(_epoch(last)), "resolution": RESOLUTIONS[timeframe]}
        return parse_candles(await self._document(http, f"/api/v1/{market.path}/candle", builder, window), market, timeframe)

    async def _actions(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if market_of(self.to_vendor(builder.symbol)).path != "stock":
            raise ProviderError(Verdict.BAD_REQUEST, f"finnhub has no actions of the pair {builder.symbol}")
        first = builder.call.start or EPOCH.date()
        last = builder.call.end - DAY if builder.call.end else builder.now.date()
        window = {"from": str(first), "to": str(last)}
        splits = parse_splits(records_in(await self._document(http, "/api/v1/stock/split", builder, window)))
        dividends, unit = parse_dividends(records_in(await self._document(http, "/api/v1/stock/dividend", builder, window)))
        return [replace(builder, unit=unit or builder.unit).actions([*splits, *dividends])]

    async def _document(self, http: Http, path: str, builder: EventBuilder, params: Mapping[str, str] | None = None) -> object:
        params = {"symbol": self.to_vendor(builder.symbol), **(params or {})}
        return parse_document(await http.get(path, params, {"X-Finnhub-Token": self._key}), builder.now, self._key)


def _pause(market: Market, timeframe: Timeframe) -> timedelta:
    """Return the longest time without a candle at the beginning of a whole answer."""
    if timeframe not in LENGTHS:
        return LONGEST_PAUSE[market.path] + PERIODS.get(timeframe, DAY)
    # A month of a share is always whole; of pairs an answer may hold two hours, so that any later beginning is suspicious.
    return MONTH if market.path == "stock" else 2 * LENGTHS[timeframe]


def _epoch(at: datetime) -> int:
    return max(0, int(at.timestamp()))


def vendor_symbol(symbol: str) -> str:
    """`OANDA:EUR_USD` for EUR/USD, `COINBASE:BTC-USD` for BTC/USD, `BINANCE:BTCUSDT` for BTC/USDT; any other as it is."""
    pair = None if ":" in symbol else pair_of(symbol)
    if pair is None:
        return symbol
    if pair.fx:
        return f"OANDA:{pair.base}_{pair.quote}"
    return f"COINBASE:{pair.base}-{pair.quote}" if pair.quote in DOLLARS else f"BINANCE:{pair.base}{pair.quote}"


def market_of(symbol: str) -> Market:
    """Return the market of a symbol in Finnhub's spelling. The currency of shares outside the United States is not named."""
    venue, colon, name = symbol.partition(":")
    if colon:
        pair = pair_of(name.replace("_", "/").replace("-", "/"))
        return Market("forex" if venue.upper() in BROKERS else "crypto", unit=Unit(pair.quote) if pair else PLAIN)
    code = symbol.rpartition(".")[2].upper() if "." in symbol else ""
    if code in _ZONES:
        return Market("stock", _ZONES[code], foreign=True)
    # A single letter that is no exchange is a share's class. An index has points, and a longer code we do not know a currency.
    return Market("stock", NEW_YORK, PLAIN if symbol.startswith("^") or len(code) > 1 else Unit("USD"))


def parse_document(reply: Reply, now: datetime, key: str) -> object:
    """Parse the object or list of an answer with data.

    Raises:
        ProviderError: the answer is an error, or nothing that can be read.
    """
    document = decode_json(reply)
    words = document.get("error") if isinstance(document, dict) else None
    if words:
        raise _error(_said(str(words)) or _by_status(str(words), reply.status), str(words), reply, now, key)
    if isinstance(document, (dict, list)) and reply.status == 200:
        return document
    if reply.status == 302:
        # Who asked too often has been sent on to a page instead of being told so.
        raise ProviderError(
            Verdict.RATE_LIMITED, "finnhub: sent us to a page, as it does to who asks too often", _reset(reply, now)
        )
    text = decode_text(reply)
    verdict = Verdict.RATE_LIMITED if reply.status == 429 else None if text.startswith("<") else _said(text)
    raise _error(verdict, text, reply, now, key) if verdict else error_for_status("finnhub", reply, now)


def _said(words: str) -> Verdict | None:
    low = words.lower()
    if "symbol" in low and any(word in low for word in UNKNOWN):
        return Verdict.NOT_FOUND
    return next((verdict for verdict, known in SAID if any(word in low for word in known)), None)


def _by_status(words: str, status: int) -> Verdict:
    if status >= 500 or "internal" in words.lower() or "timeout" in words.lower():
        return Verdict.SERVER_ERROR
    return STATUSES.get(status) or (Verdict.BAD_REQUEST if 400 <= status < 500 else Verdict.MALFORMED)


def _error(verdict: Verdict, words: str, reply: Reply, now: datetime, key: str) -> ProviderError:
    if verdict is Verdict.RATE_LIMITED or reply.status == 429:
        return ProviderError(Verdict.RATE_LIMITED, "finnhub: too many requests", _reset(reply, now))
    if verdict is Verdict.UNAUTHORIZED:
        return ProviderError(verdict, "finnhub: the key is not accepted; set api_key")
    return ProviderError(verdict, f"finnhub: {sanitize(words, key)}", retry_after(reply, now))


def _reset(reply: Reply, now: datetime) -> datetime | None:
    """Parse when the spent window is over, from the headers."""
    reset = from_epoch(reply.headers.get("x-ratelimit-reset"))
    return reset if reset and now < reset < now + MAX_RETRY_AFTER else retry_after(reply, now)


def parse_candles(document: object, market: Market, timeframe: Timeframe) -> list[Candle]:
    """Parse the candles of an answer in the order given; none where it says `no_data`. Columns may be missing, short or hold nulls.

    Raises:
        ProviderError: malformed, when it has neither candles nor says that there are none.
    """
    columns: Record = document if isinstance(document, dict) else {}
    times = columns.get("t")
    if columns.get("s") == "no_data":
        return []
    if not isinstance(times, list):
        raise ProviderError(Verdict.MALFORMED, "finnhub: answered something else instead of candles")
    o, h, low, c, v = (_column(columns.get(name), len(times)) for name in "ohlcv")
    found = []
    for i, seconds in enumerate(times):
        if (stamp := from_epoch(seconds)) is not None:
            at = stamp if timeframe in LENGTHS else day_start(market.session_of(stamp), market.zone)
            found.append(Candle(stamp, Bar(at, o[i], h[i], low[i], c[i], v[i])))
    return found


def _column(values: object, rows: int) -> list[float | None]:
    known = [number(value) for value in values] if isinstance(values, list) else []
    return [*known, *[None] * (rows - len(known))]


def parse_quote(document: object) -> Quote | None:
    """Parse the quote; None where all is zero or null, which is how an unknown symbol is answered.

    Raises:
        ProviderError: malformed, when it is no quote.
    """
    if not isinstance(document, dict) or "c" not in document:
        raise ProviderError(Verdict.MALFORMED, "finnhub: answered something else instead of a quote")
    quote = Quote(at=from_epoch(document.get("t")), price=price(document["c"]), previous_close=price(document.get("pc")))
    return None if quote == Quote() else quote


def records_in(document: object) -> list[Record]:
    """Return the rows of a list.

    Raises:
        ProviderError: malformed, when it is no list of rows.
    """
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        return document
    raise ProviderError(Verdict.MALFORMED, "finnhub: answered something else instead of a list")


def parse_splits(records: Iterable[Record]) -> Iterator[Action]:
    """Parse splits: `toFactor` new shares for `fromFactor` old."""
    for record in records:
        day, old, new = day_of(record.get("date")), number(record.get("fromFactor")), number(record.get("toFactor"))
        if day and old and new:
            yield Action(day, "split", new / old)


def parse_dividends(records: Iterable[Record]) -> tuple[list[Action], Unit | None]:
    """Parse dividends as paid, in the major unit, on their ex-date; and their unit if it is named, PLAIN for several."""
    actions: list[Action] = []
    units: set[Unit] = set()
    for record in records:
        day, amount = day_of(record.get("date")), number(record.get("amount"))
        if day and amount:
            unit = unit_of(str(record.get("currency") or ""))
            actions.append(Action(day, "dividend", unit.known(amount)))
            units.add(unit._replace(scale=1.0))
    units.discard(PLAIN)
    return actions, (units.pop() if len(units) == 1 else PLAIN) if units else None


PROVIDER = Finnhub
