"""Yahoo Finance: bars, splits and dividends from its chart API; quotes and option chains with cookie and crumb. Not official.

Source: https://query1.finance.yahoo.com/v8/finance/chart/AAPL (no documentation is published)
Limits: none published; one or two requests a second are borne, and only with a browser's User-Agent. 1m bars reach 30 days back,
at most 8 days a request; 5m to 30m bars 60 days, 1h bars 730 days.
Units: prices are adjusted for splits, `adjusted_close` for dividends too; their float32 noise is rounded away, pence and the like
are divided by 100. A 1d bar is stamped at the session's opening: its date is that instant's in the exchange's zone, whose offset
then is not today's `gmtoffset`. A volume of 0 is unknown for currencies, funds and indices.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeVar
from urllib.parse import quote as quoted
from zoneinfo import ZoneInfo

import msgspec

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Action, Bar, Contract, EventBuilder, Quote
from services.fetcher.adapter.fields import (
    EPOCH,
    LENGTHS,
    dashed_class,
    day_start,
    from_epoch,
    number,
    pair_of,
    period_start,
    price,
    significant,
    unit_of,
)
from services.fetcher.adapter.responses import check_zone, decode_text, error_for_status, fetch_each, retry_after, sanitize
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

# So many days hold 500 bars of regular sessions, and are within what Yahoo gives in one request.
LATEST_DAYS: dict[Timeframe, int] = {"1m": 7, "5m": 14, "15m": 30, "30m": 59, "1h": 110, "1d": 740, "1wk": 3530, "1mo": 15300}
WINDOW_DAYS: dict[Timeframe, int] = {"1m": 7}
LONGEST_DELAY = timedelta(minutes=30)
ALL_DAYS = 50_000  # a range that is longer than any listing
EXCHANGES = "FLTV"  # Frankfurt, London, Tokyo, TSX Venture: their suffixes look like a share's class
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
COOKIE_PAGE = "https://fc.yahoo.com/"
CRUMB_PATH = "/v1/test/getcrumb"
T = TypeVar("T")
VOLUMELESS = frozenset({"CURRENCY", "MUTUALFUND", "INDEX"})
_FLOATS: msgspec.json.Decoder[list[float | None]] = msgspec.json.Decoder(list[float | None])
MIN_IV = 1e-4  # 0.00001 stands for "not computed"
# The first whose words an error holds.
SIGNS = {
    Verdict.RATE_LIMITED: ("too many requests", "rate limit"),
    Verdict.EMPTY: ("data doesn't exist",),
    Verdict.BAD_REQUEST: ("must be within", "data not available for", "invalid input", "unprocessable", "bad request"),
    Verdict.UNAUTHORIZED: ("crumb", "unauthorized", "unable to access", "cookie"),
    Verdict.NOT_FOUND: ("not found", "no data found", "delisted"),
    Verdict.SERVER_ERROR: ("internal", "unavailable", "timeout", "timed out"),
}


class YahooSession:
    """Session of one visitor of the site: cookie and crumb are fetched once, and once more when Yahoo no longer takes them."""

    def __init__(self, user_agent: str) -> None:
        self.headers: dict[str, str] = {"User-Agent": user_agent, "Accept": "*/*"}
        self._crumb = ""
        self._fetching = asyncio.Lock()

    async def get(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> Reply:
        """Send a request that carries cookie and crumb; each request on the way there takes its own permit."""
        crumb = await self._refresh_crumb("", http, now)
        reply = await http.get(path, {**params, "crumb": crumb}, self.headers)
        if reply.status == 401:
            crumb = await self._refresh_crumb(crumb, http, now)
            reply = await http.get(path, {**params, "crumb": crumb}, self.headers)
        return reply

    async def _refresh_crumb(self, refused: str, http: Http, now: datetime) -> str:
        async with self._fetching:
            if self._crumb == refused:
                await self._take_cookie(http, now)
                reply = await http.get(CRUMB_PATH, None, self.headers)
                self._crumb = crumb_in(reply, now)
            return self._crumb

    async def _take_cookie(self, http: Http, now: datetime) -> None:
        try:
            reply = await http.get(COOKIE_PAGE, None, {"User-Agent": self.headers["User-Agent"]})
        except ProviderError as error:
            # Name servers that block trackers do not know this host; a crumb may be had without the cookie.
            if error.verdict not in (Verdict.SERVER_ERROR, Verdict.TIMEOUT):
                raise
            return
        if reply.status == 429:
            raise ProviderError(Verdict.RATE_LIMITED, "yahoo: too many requests", retry_after(reply, now))
        cookies = [line.partition(";")[0].strip() for line in reply.headers.get("set-cookie", "").splitlines()]
        if cookies:
            self.headers["Cookie"] = "; ".join(cookies)


class _Error(msgspec.Struct):
    code: str = ""
    description: str | None = None


class _Envelope(msgspec.Struct):
    result: list[msgspec.Raw] | None = None
    error: _Error | None = None


class Meta(msgspec.Struct, rename="camel"):
    """`currency` in Yahoo's spelling; `regular_market_time` is the last trade's, in seconds since 1970."""

    currency: str | None = None
    exchange_timezone_name: str = ""
    instrument_type: str = ""
    regular_market_time: int = 0


class _Prices(msgspec.Struct):
    open: list[float | None] = []
    high: list[float | None] = []
    low: list[float | None] = []
    close: list[float | None] = []
    volume: list[float | None] = []


class _Adjusted(msgspec.Struct):
    adjclose: list[float | None] = []


class _Indicators(msgspec.Struct):
    quote: list[_Prices] = []
    adjclose: list[_Adjusted] = []


class Chart(msgspec.Struct):
    """Columns of bars, by their start in seconds since 1970; a range without bars has no `timestamp`."""

    meta: Meta
    timestamp: list[int] | None = None
    indicators: _Indicators = msgspec.field(default_factory=_Indicators)
    events: dict[str, dict[str, dict[str, Any]]] = {}


class _Expiration(msgspec.Struct, rename="camel"):
    expiration_date: int = 0
    calls: list[dict[str, Any]] = []
    puts: list[dict[str, Any]] = []


class Chain(msgspec.Struct, rename="camel"):
    """The contracts of one expiration, and the dates of all, each midnight UTC in seconds."""

    expiration_dates: list[int] = []
    options: list[_Expiration] = []

    def missing_dates(self) -> list[int]:
        """Return the expirations whose contracts are not here."""
        return sorted(set(self.expiration_dates) - {expiration.expiration_date for expiration in self.options})


class Yahoo:
    """Yahoo Finance, as a visitor without an account."""

    profile = Profile(
        name="yahoo",
        base_url="https://query1.finance.yahoo.com",
        offers={"bars": TIMEFRAMES, "quote": (), "chain": (), "actions": ()},
        basis="split",
        feed="consolidated",
        symbols_per_call={"quote": 100},
        limits=Limits(per_second=2),
        secrets=(),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._session = YahooSession(str(credentials.options.get("user_agent") or BROWSER))

    def to_vendor(self, symbol: str) -> str:
        """`BRK-B` for BRK.B, `EURUSD=X` for EUR/USD, `BTC-USD` for BTC/USD."""
        pair = pair_of(symbol) if "/" in symbol else None
        if pair is None:
            return dashed_class(symbol, EXCHANGES)
        return f"{pair.base}{pair.quote}=X" if pair.fx else f"{pair.base}-{pair.quote}"

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Quotes share one request; bars and actions take one a symbol, chains one an expiration."""
        refuse_unoffered(self.profile, call)
        if call.dataset == "quote":
            return await self._quotes(call, http, now)
        ask = {"bars": self._bars, "actions": self._actions, "chain": self._chain}[call.dataset]
        return await fetch_each(call.symbols, lambda symbol: ask(EventBuilder(self.profile, call, symbol, now), http))

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        rows: list[Bar] = []
        timeframe = builder.call.timeframe or "1d"
        for window in _windows(builder.call, timeframe, builder.now):
            chart = await self._chart(builder, http, timeframe, window)
            if chart is not None:
                builder = _with_listing(builder, chart)
                rows += _without_live_row(parse_rows(chart), timeframe, builder)
        return builder.bars(rows)

    async def _actions(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        start = day_start(builder.call.start) if builder.call.start else builder.now - timedelta(days=ALL_DAYS)
        end = day_start(builder.call.end) if builder.call.end else builder.now
        chart = await self._chart(builder, http, "1d", (start - timedelta(days=1), end + timedelta(days=1)))
        return [builder.actions([])] if chart is None else [_with_listing(builder, chart).actions(parse_actions(chart))]

    async def _chart(self, builder: EventBuilder, http: Http, interval: str, window: tuple[datetime, datetime]) -> Chart | None:
        """None: Yahoo says that there is nothing in the window."""
        params = {
            "period1": str(int(window[0].timestamp())),
            "period2": str(int(window[1].timestamp())),
            "interval": interval,
            "events": "div|split",
            "includePrePost": "false",
            "includeAdjustedClose": "true",
        }
        path = f"/v8/finance/chart/{quoted(self.to_vendor(builder.symbol), safe='')}"
        try:
            charts = parse_results(await http.get(path, params, self._session.headers), Chart, builder.now)
        except ProviderError as error:
            if error.verdict is Verdict.EMPTY:
                return None
            raise
        return charts[0] if charts else None

    async def _chain(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        path = f"/v7/finance/options/{quoted(self.to_vendor(builder.symbol), safe='')}"
        plain = {"formatted": "false"}
        chains = parse_results(await self._session.get(http, path, plain, builder.now), Chain, builder.now)
        if not chains:
            raise ProviderError(Verdict.NOT_FOUND, f"yahoo: knows no {builder.symbol}")
        contracts = list(parse_contracts(chains[0]))
        for seconds in chains[0].missing_dates():
            reply = await self._session.get(http, path, plain | {"date": str(seconds)}, builder.now)
            for chain in parse_results(reply, Chain, builder.now):
                contracts += parse_contracts(chain)
        return builder.chain(contracts)

    async def _quotes(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        params = {"symbols": ",".join(map(self.to_vendor, call.symbols)), "formatted": "false"}
        results = parse_results(await self._session.get(http, "/v7/finance/quote", params, now), dict[str, Any], now)
        found = {str(row.get("symbol", "")).upper(): row for row in results}
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for symbol in call.symbols:
            row = found.get(self.to_vendor(symbol).upper(), {})
            quote = parse_quote(row)
            if quote.price is None and quote.bid is None and quote.ask is None:
                failed[symbol] = ProviderError(Verdict.NOT_FOUND, f"yahoo: has no quote of {symbol}")
            else:
                unit = unit_of(row.get("currency"))
                events.append(EventBuilder(self.profile, call, symbol, now, unit).quote(quote, quote.at))
        return Answer(events, failed)


def _windows(call: FetchCall, timeframe: Timeframe, now: datetime) -> list[tuple[datetime, datetime]]:
    """Return the windows that cover a call; days get one more on either side, as a session can begin on another UTC date."""
    if call.start is None or call.end is None:
        return [(now - timedelta(days=LATEST_DAYS[timeframe]), now + timedelta(days=1))]
    start, end = day_start(period_start(call.start, timeframe)), day_start(call.end)
    if timeframe not in LENGTHS:
        return [(start - timedelta(days=1), end + timedelta(days=1))]
    step = timedelta(days=WINDOW_DAYS.get(timeframe) or (end - start).days)
    edges = [start + step * i for i in range(-(-(end - start) // step))]
    return [(edge, min(edge + step, end)) for edge in edges]


def _with_listing(builder: EventBuilder, chart: Chart) -> EventBuilder:
    zone = check_zone("yahoo", chart.meta.exchange_timezone_name)
    # Many exchanges are delayed, and a chart does not say by how much: only what lies before the last trade is complete.
    last_trade = from_epoch(chart.meta.regular_market_time) or builder.now
    complete_until = min(builder.now, max(last_trade, builder.now - LONGEST_DELAY))
    return replace(builder, unit=unit_of(chart.meta.currency), zone=zone, complete_until=complete_until)


def _without_live_row(rows: list[Bar], timeframe: Timeframe, builder: EventBuilder) -> list[Bar]:
    """Return the rows with the last folded into the one before, where Yahoo gives the price of now as a row of its own."""
    if len(rows) < 2 or rows[-1].close is None:
        return rows
    *before, bar, live = rows
    length = LENGTHS.get(timeframe)
    if live.at - bar.at >= length if length else builder.label(live.at) != builder.label(bar.at):
        return rows
    highs = [high for high in (bar.high, live.high) if high is not None]
    lows = [low for low in (bar.low, live.low) if low is not None]
    # The live row of a day counts the whole day, that of a longer or shorter bar only what came after.
    volumes = [live.volume] if timeframe == "1d" and live.volume else [v for v in (bar.volume, live.volume) if v is not None]
    start = live.open if bar.open is None else bar.open
    folded = Bar(bar.at, start, max(highs, default=None), min(lows, default=None), live.close, sum(volumes), live.adjusted_close)
    return [*before, folded if volumes else folded._replace(volume=None)]


def crumb_in(reply: Reply, now: datetime) -> str:
    """Return the crumb: one short word.

    Raises:
        ProviderError: anything else.
    """
    text = decode_text(reply)
    if "too many requests" in text.lower():
        raise ProviderError(Verdict.RATE_LIMITED, "yahoo: too many requests", retry_after(reply, now))
    if reply.status != 200 or not text or len(text) > 64 or set(text) & set("<{ \n"):
        raise error_for_status("yahoo", reply, now)
    return text


def parse_results(reply: Reply, kind: type[T], now: datetime) -> list[T]:
    """Parse the results in the envelope, whatever its name.

    Raises:
        ProviderError: the envelope holds an error, or there is no envelope.
    """
    try:
        envelope = next(iter(msgspec.json.decode(reply.body, type=dict[str, _Envelope | None]).values()), None)
        if envelope is not None and envelope.error is not None:
            raise _refused(reply, envelope.error, now)
        if envelope is not None and envelope.result is not None and reply.status == 200:
            return [msgspec.json.decode(result, type=kind) for result in envelope.result]
    except (ValueError, RecursionError):  # no JSON, no text, or nested beyond measure
        if reply.status == 999 or "too many requests" in decode_text(reply)[:200].lower():
            raise ProviderError(Verdict.RATE_LIMITED, "yahoo: too many requests", retry_after(reply, now)) from None
    raise error_for_status("yahoo", reply, now)


def parse_rows(chart: Chart) -> list[Bar]:
    """Parse the bars in Yahoo's order, prices in Yahoo's unit.

    Raises:
        ProviderError: malformed, when the columns are not of one length.
    """
    if not chart.timestamp or not chart.indicators.quote:
        return []
    prices, count, kind = chart.indicators.quote[0], len(chart.timestamp), chart.meta.instrument_type
    adjusted = chart.indicators.adjclose[0].adjclose if chart.indicators.adjclose else []
    columns = [c or [None] * count for c in (prices.open, prices.high, prices.low, prices.close, prices.volume, adjusted)]
    if any(len(column) != count for column in columns):
        raise ProviderError(Verdict.MALFORMED, "yahoo: the columns of the chart are not of one length")
    *exact, volume, adjusted = columns
    opens, high, low, close, adjusted = map(_exact_column, (*exact, adjusted))
    volume = [_volume(value, kind) for value in volume] if kind in VOLUMELESS else volume
    instants = list(map(_instant, chart.timestamp))
    rows = list(map(Bar, instants, opens, high, low, close, volume, adjusted))
    return [row for row in rows if row.at != EPOCH] if EPOCH in instants else rows


def parse_actions(chart: Chart) -> Iterator[Action]:
    """Parse splits and dividends, on their day in the exchange's zone."""
    zone = ZoneInfo(check_zone("yahoo", chart.meta.exchange_timezone_name))
    for event in chart.events.get("splits", {}).values():
        new, old, at = number(event.get("numerator")), number(event.get("denominator")), from_epoch(event.get("date"))
        if new and old and at:
            yield Action(at.astimezone(zone).date(), "split", new / old)
    for event in chart.events.get("dividends", {}).values():
        amount, at = _exact(price(event.get("amount"))), from_epoch(event.get("date"))
        if amount and at:
            yield Action(at.astimezone(zone).date(), "dividend", amount)


def parse_contracts(chain: Chain) -> Iterator[Contract]:
    """Parse the calls and puts; Yahoo gives no greeks and no mark."""
    for expiration in chain.options:
        yield from _contracts(expiration.calls, "call")
        yield from _contracts(expiration.puts, "put")


def parse_quote(row: dict[str, Any]) -> Quote:
    """Parse a quote of the regular session, prices in Yahoo's unit."""
    return Quote(
        at=from_epoch(row.get("regularMarketTime")),
        price=_exact(price(row.get("regularMarketPrice"))),
        bid=_exact(price(row.get("bid"))),
        ask=_exact(price(row.get("ask"))),
        previous_close=_exact(price(row.get("regularMarketPreviousClose"))),
        volume=_volume(number(row.get("regularMarketVolume")), str(row.get("quoteType", ""))),
    )


def _refused(reply: Reply, error: _Error, now: datetime) -> ProviderError:
    words = f"{error.code}: {error.description or ''}"
    for verdict, signs in SIGNS.items():
        if any(sign in words.lower() for sign in signs):
            return ProviderError(verdict, f"yahoo: {sanitize(words)}", retry_after(reply, now))
    return error_for_status("yahoo", reply, now)


def _contracts(rows: Iterable[dict[str, Any]], right: Literal["call", "put"]) -> Iterator[Contract]:
    for row in rows:
        if expiry := from_epoch(row.get("expiration")):
            yield _contract(row, right, expiry.date())


def _contract(row: dict[str, Any], right: Literal["call", "put"], expiry: date) -> Contract:
    iv = number(row.get("impliedVolatility"))
    return Contract(
        contract=str(row.get("contractSymbol") or ""),
        expiry=expiry,
        strike=number(row.get("strike")) or 0.0,
        right=right,
        bid=price(row.get("bid")),
        ask=price(row.get("ask")),
        last=price(row.get("lastPrice")),
        volume=number(row.get("volume")),
        open_interest=number(row.get("openInterest")),
        iv=iv if iv and iv > MIN_IV else None,
        at=from_epoch(row.get("lastTradeDate")),
    )


def _exact(value: float | None) -> float | None:
    """Return a price without the noise of its float32: seven digits are all it ever had."""
    return None if value is None else significant(value, 7)


def _exact_column(column: list[float | None]) -> list[float | None]:
    """Round a whole column at once; it nearly always has no gaps."""
    if None in column:
        return [_exact(value) for value in column]
    return _FLOATS.decode(f"[{','.join(['%.7g'] * len(column)) % tuple(column)}]")


@lru_cache(maxsize=65536)
def _instant(seconds: int) -> datetime:
    """Remembered, as bars of many symbols begin at the same instants. EPOCH stands for unknown."""
    return from_epoch(seconds) or EPOCH


def _volume(value: float | None, kind: str) -> float | None:
    return None if not value and kind in VOLUMELESS else value


PROVIDER = Yahoo
