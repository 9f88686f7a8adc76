"""Tiingo: end-of-day bars with splits and dividends, intraday bars and quotes of IEX, crypto and currency pairs.

Source: https://www.tiingo.com/documentation/end-of-day (and /iex, /crypto, /forex)
Limits: a free key has 50 requests an hour, 1000 a day, and 500 symbols a month. Intraday answers hold the latest 2000 points or so,
therefore longer ranges are asked in windows.
Units: dollars per share, raw, with `adjusted_close` for splits and dividends; a pair's prices in its quote currency. A daily bar is
dated by its session, spelled as midnight UTC; a weekly or monthly one by its last trading day. Intraday times are true instants.
Quirks: intraday volume comes only when its column is asked for. Refusals may come as a sentence with status 200, in CSV mode too.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from urllib.parse import quote as quoted
from zoneinfo import ZoneInfo

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Action, Bar, EventBuilder, Quote
from services.fetcher.adapter.fields import (
    LENGTHS,
    NEW_YORK,
    PLAIN,
    Unit,
    dashed_class,
    day_of,
    day_start,
    instant_of,
    number,
    pair_of,
    period_end,
    period_start,
    price,
    unit_of,
)
from services.fetcher.adapter.responses import (
    decode_json,
    decode_text,
    error_for_status,
    fetch_each,
    quota_window_end,
    retry_after,
    sanitize,
)
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

EOD_FREQUENCIES = {"1d": "daily", "1wk": "weekly", "1mo": "monthly"}
FREQUENCIES = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1hour", "1d": "1day"}
# Calendar days whose points stay below 2000: of an exchange with sessions, of a market that never closes.
SESSION_WINDOWS: dict[Timeframe, int] = {"1m": 7, "5m": 35, "15m": 105, "30m": 210, "1h": 390}
ROUND_THE_CLOCK_WINDOWS: dict[Timeframe, int] = {"1m": 1, "5m": 6, "15m": 20, "30m": 41, "1h": 83, "1d": 1990}
# So many days hold 500 bars.
LATEST_DAYS: dict[Timeframe, int] = {"1d": 740, "1wk": 3530, "1mo": 15300}
TOPS = {"share": "/iex/", "crypto": "/tiingo/crypto/top", "fx": "/tiingo/fx/top"}
FIRST_DAY = date(1962, 1, 1)  # no series begins earlier
Record = Mapping[str, object]


class Tiingo:
    """Tiingo with one key."""

    profile = Profile(
        name="tiingo",
        base_url="https://api.tiingo.com",
        offers={"bars": TIMEFRAMES, "quote": (), "actions": ()},
        basis="raw",
        feed="eod",
        symbols_per_call={"quote": 50},
        limits=Limits(per_hour=50, per_day=1000, symbols_per_month=500, day_zone=NEW_YORK),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._headers = {"Authorization": f"Token {credentials.api_key}"}

    def to_vendor(self, symbol: str) -> str:
        """`BRK-B` for BRK.B, `eurusd` for EUR/USD."""
        pair = pair_of(symbol)
        return f"{pair.base}{pair.quote}".lower() if pair else dashed_class(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Quotes, and bars of crypto pairs, share requests; all else takes one a symbol and window."""
        refuse_unoffered(self.profile, call)
        if call.dataset == "quote":
            return await self._quotes(call, http, now)
        ask = self._actions if call.dataset == "actions" else self._bars
        return await fetch_each(call.symbols, lambda symbol: ask(EventBuilder(self.profile, call, symbol, now), http))

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        timeframe, kind = builder.call.timeframe or "1d", _kind(builder.symbol)
        intraday = timeframe in LENGTHS
        if kind != "share" and timeframe not in FREQUENCIES:
            raise ProviderError(Verdict.BAD_REQUEST, f"tiingo has no {timeframe} bars of the pair {builder.symbol}")
        builder = _with_listing(builder, "iex" if intraday else "eod")
        path, params = self._series(builder.symbol, timeframe)
        ticker = self.to_vendor(builder.symbol).lower()
        rows: list[Bar] = []
        for first, last in _windows(builder.call, timeframe, kind, builder.now):
            records = await self._records(http, path, params | {"startDate": str(first), "endDate": str(last)}, builder.now)
            if kind == "crypto":
                records, builder = self._own_prices(records, builder)
            records = [record for record in records if str(record.get("ticker", ticker)).lower() == ticker]
            rows += parse_rows(records, timeframe, builder.zone)
        return builder.bars(rows)

    def _series(self, symbol: str, timeframe: Timeframe) -> tuple[str, dict[str, str]]:
        ticker, kind = self.to_vendor(symbol), _kind(symbol)
        if kind == "crypto":
            return "/tiingo/crypto/prices", {"tickers": ticker, "resampleFreq": FREQUENCIES[timeframe]}
        if kind == "fx":
            return f"/tiingo/fx/{ticker}/prices", {"resampleFreq": FREQUENCIES[timeframe]}
        if timeframe in LENGTHS:
            params = {"resampleFreq": FREQUENCIES[timeframe], "columns": "open,high,low,close,volume", "afterHours": "false"}
            return f"/iex/{quoted(ticker, safe='')}/prices", params
        return f"/tiingo/daily/{quoted(ticker, safe='')}/prices", {"resampleFreq": EOD_FREQUENCIES[timeframe], "format": "json"}

    def _own_prices(self, records: Sequence[Record], builder: EventBuilder) -> tuple[list[Record], EventBuilder]:
        """Return the bars of one crypto pair, and in what they are quoted."""
        for record in records:
            prices = record.get("priceData")
            if str(record.get("ticker")).lower() == self.to_vendor(builder.symbol) and isinstance(prices, list):
                unit = unit_of(str(record.get("quoteCurrency") or "") or builder.unit.currency)
                return [row for row in prices if isinstance(row, dict)], replace(builder, unit=unit)
        return [], builder

    async def _actions(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if _kind(builder.symbol) != "share":
            raise ProviderError(Verdict.BAD_REQUEST, f"tiingo has no actions of the pair {builder.symbol}")
        builder = _with_listing(builder, "eod")
        first = builder.call.start or FIRST_DAY
        last = builder.call.end - timedelta(days=1) if builder.call.end else builder.now.date()
        # Only these columns: a whole history weighs on the month's allowance of bytes.
        params = {"startDate": str(first), "endDate": str(last), "columns": "divCash,splitFactor", "format": "json"}
        path = f"/tiingo/daily/{quoted(self.to_vendor(builder.symbol), safe='')}/prices"
        return [builder.actions(parse_actions(await self._records(http, path, params, builder.now)))]

    async def _quotes(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        groups = {path: [s for s in call.symbols if TOPS[_kind(s)] == path] for path in TOPS.values()}
        for path, symbols in groups.items():
            try:
                events += await self._quotes_from(
                    path, [EventBuilder(self.profile, call, symbol, now) for symbol in symbols], http, failed
                )
            except ProviderError as error:
                if len(symbols) == len(call.symbols):
                    raise
                failed |= dict.fromkeys(symbols, error)
        return Answer(events, failed)

    async def _quotes_from(
        self, path: str, builders: Sequence[EventBuilder], http: Http, failed: dict[str, ProviderError]
    ) -> list[PriceEvent]:
        if not builders:
            return []
        tickers = ",".join(self.to_vendor(each.symbol) for each in builders)
        records = await self._records(http, path, {"tickers": tickers}, builders[0].now)
        found = {str(record.get("ticker")).lower(): record for record in records}
        events: list[PriceEvent] = []
        for each in builders:
            quote = parse_quote(found.get(self.to_vendor(each.symbol).lower(), {}))
            if quote.price is None and quote.bid is None and quote.ask is None:
                # Left out is not unknown: only an explicit "not found" is.
                failed[each.symbol] = ProviderError(Verdict.EMPTY, f"tiingo: has no quote of {each.symbol}")
            else:
                events.append(_with_listing(each, "iex").quote(quote, quote.at))
        return events

    async def _records(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> list[Record]:
        return parse_records(await http.get(path, params, self._headers), now)


def _kind(symbol: str) -> str:
    pair = pair_of(symbol)
    return "share" if pair is None else "fx" if pair.fx else "crypto"


def _with_listing(builder: EventBuilder, share_feed: str) -> EventBuilder:
    """Return the builder with the currency, zone and feed of its market. Tickers of digits are Chinese, of unnamed currency."""
    if pair := pair_of(builder.symbol):
        return replace(builder, unit=Unit(pair.quote), zone="UTC", feed="consolidated")
    return replace(builder, unit=PLAIN if builder.symbol[:1].isdigit() else Unit("USD"), zone=NEW_YORK, feed=share_feed)


def _windows(call: FetchCall, timeframe: Timeframe, kind: str, now: datetime) -> Iterator[tuple[date, date]]:
    """Return the first and last days of the requests that cover a call."""
    longest = (SESSION_WINDOWS if kind == "share" else ROUND_THE_CLOCK_WINDOWS).get(timeframe)
    if call.start is None or call.end is None:
        yield now.date() - timedelta(days=LATEST_DAYS.get(timeframe) or longest or 1), now.date()
        return
    first = period_start(call.start, timeframe)
    end = period_end(period_start(call.end - timedelta(days=1), timeframe), timeframe)
    step = timedelta(days=longest or (end - first).days)
    while first < end:
        yield first, min(first + step, end) - timedelta(days=1)
        first += step


def parse_records(reply: Reply, now: datetime) -> list[Record]:
    """Parse the rows of a JSON or CSV answer; none where the vendor has none.

    Raises:
        ProviderError: the answer is a sentence, or nothing that can be read.
    """
    document = decode_json(reply)
    text = decode_text(reply)
    header = text.partition("\n")[0].strip().split(",")
    if isinstance(document, list) and all(isinstance(row, dict) for row in document) and reply.status == 200:
        return document
    if document is None and "date" in header and len(header) > 1:
        return list(csv.DictReader(text.splitlines()))
    words = _sentence(document) if document is not None else text
    if words and not words.startswith("<"):
        raise _refused(words, reply, now)
    raise error_for_status("tiingo", reply, now)


def _sentence(document: object) -> str:
    if isinstance(document, dict):
        return str(document.get("detail") or document.get("message") or "")
    if isinstance(document, list):
        return " ".join(str(each) for each in document)
    return document if isinstance(document, str) else ""


def _refused(words: str, reply: Reply, now: datetime) -> ProviderError:
    low = words.lower()
    message = f"tiingo: {sanitize(words.removeprefix('Error: '))}"
    if reply.status == 429 or "run over" in low or "allocation" in low or "rate limit" in low:
        return ProviderError(Verdict.RATE_LIMITED, message, retry_after(reply, now) or quota_window_end(low, now, NEW_YORK))
    if "not found" in low:
        return ProviderError(Verdict.NOT_FOUND, message)
    if reply.status == 401 or "token" in low or "credentials" in low:
        return ProviderError(Verdict.UNAUTHORIZED, "tiingo: the key is not accepted; set api_key")
    if reply.status in (402, 403) or "permission" in low or "subscription" in low or "upgrade" in low:
        return ProviderError(Verdict.PLAN_RESTRICTED, message)
    if reply.status == 400 or (low.startswith("error") and reply.status < 500):
        return ProviderError(Verdict.BAD_REQUEST, message)
    return error_for_status("tiingo", reply, now)


def parse_rows(records: Iterable[Record], timeframe: Timeframe, zone: str) -> Iterator[Bar]:
    """Parse bars; a day's is labelled by the date of its session."""
    for record in records:
        day = _session_of(record.get("date"))
        at = instant_of(record.get("date")) if timeframe in LENGTHS else day_start(day, zone) if day else None
        if at is not None:
            o, h, low, c = (number(record.get(name)) for name in ("open", "high", "low", "close"))
            yield Bar(at, o, h, low, c, number(record.get("volume")), number(record.get("adjClose")))


def _session_of(text: object) -> date | None:
    """Return the date as it is written; of a currency's day that opens at 17:00 in New York, the date it closes on."""
    at = instant_of(text)
    if at is None or at.time() == time():
        return day_of(text)
    return (at.astimezone(ZoneInfo(NEW_YORK)) + timedelta(hours=7)).date()


def parse_actions(records: Iterable[Record]) -> Iterator[Action]:
    """Parse splits and dividends out of daily bars: a factor of 1 and no cash are none."""
    for record in records:
        day, factor, cash = day_of(record.get("date")), number(record.get("splitFactor")), number(record.get("divCash"))
        if day and factor and factor != 1.0:
            yield Action(day, "split", factor)
        if day and cash:
            yield Action(day, "dividend", cash)


def parse_quote(record: Record) -> Quote:
    """Parse the top of the book at IEX, of a crypto pair or of a currency pair.

    Bid, ask and `last` of IEX are null without an agreement with the exchange; `tngoLast` is Tiingo's own.
    """
    book = record.get("topOfBookData")
    top: Record = book[0] if isinstance(book, list) and book and isinstance(book[0], dict) else record
    return Quote(
        at=next((at for name in ("quoteTimestamp", "lastSaleTimestamp", "timestamp") if (at := instant_of(top.get(name)))), None),
        price=_known(top, "last", "tngoLast", "lastPrice", "midPrice"),
        bid=price(top.get("bidPrice")),
        ask=price(top.get("askPrice")),
        previous_close=price(top.get("prevClose")),
        volume=number(top.get("volume")),
    )


def _known(record: Record, *names: str) -> float | None:
    return next((found for name in names if (found := price(record.get(name))) is not None), None)


PROVIDER = Tiingo
