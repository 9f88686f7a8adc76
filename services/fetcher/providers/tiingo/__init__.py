"""Tiingo: end-of-day bars with splits and dividends, intraday bars and quotes of IEX, crypto and currency pairs.

Source: https://www.tiingo.com/documentation/end-of-day (and /iex, /crypto, /forex)
Limits: a free key has 50 requests an hour, 1000 a day, and 500 symbols a month. Intraday answers hold the latest 2000 points or so,
therefore longer ranges are asked in windows.
Units: dollars per share, raw, with `adjusted_close` for splits and dividends; a pair's prices in its quote currency. A daily bar is
dated by its session, spelled as midnight UTC; a weekly or monthly one by its last trading day. Intraday times are true instants.
Quirks: intraday volume comes only when its column is asked for. Refusals may come as a sentence with status 200, in CSV mode too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from urllib.parse import quote as quoted

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Bar, EventBuilder
from services.fetcher.adapter.fields import LENGTHS, PLAIN, Unit, dashed_class, pair_of, period_end, period_start, unit_of
from services.fetcher.adapter.responses import fetch_each
from services.fetcher.provider import (
    Answer,
    Credentials,
    FetchCall,
    Http,
    Limits,
    Profile,
    ProviderError,
    Verdict,
    refuse_unoffered,
)
from services.fetcher.providers.tiingo.answers import NEW_YORK, Record, parse_actions, parse_records, parse_rows, parse_spot

EOD_FREQUENCIES = {"1d": "daily", "1wk": "weekly", "1mo": "monthly"}
FREQUENCIES = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1hour", "1d": "1day"}
# Calendar days whose points stay below 2000: of an exchange with sessions, of a market that never closes.
SESSION_WINDOWS: dict[Timeframe, int] = {"1m": 7, "5m": 35, "15m": 105, "30m": 210, "1h": 390}
ROUND_THE_CLOCK_WINDOWS: dict[Timeframe, int] = {"1m": 1, "5m": 6, "15m": 20, "30m": 41, "1h": 83, "1d": 1990}
# So many days hold 500 bars.
LATEST_DAYS: dict[Timeframe, int] = {"1d": 740, "1wk": 3530, "1mo": 15300}
TOPS = {"share": "/iex/", "crypto": "/tiingo/crypto/top", "fx": "/tiingo/fx/top"}
FIRST_DAY = date(1962, 1, 1)  # no series begins earlier


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

    def __init__(self, access: Credentials) -> None:
        self._headers = {"Authorization": f"Token {access.api_key}"}

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

    async def _bars(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        timeframe, kind = asked.call.timeframe or "1d", _kind(asked.symbol)
        intraday = timeframe in LENGTHS
        if kind != "share" and timeframe not in FREQUENCIES:
            raise ProviderError(Verdict.BAD_REQUEST, f"tiingo has no {timeframe} bars of the pair {asked.symbol}")
        asked = _placed(asked, "iex" if intraday else "eod")
        path, params = self._series(asked.symbol, timeframe)
        ticker = self.to_vendor(asked.symbol).lower()
        rows: list[Bar] = []
        for first, last in _windows(asked.call, timeframe, kind, asked.now):
            records = await self._records(http, path, params | {"startDate": str(first), "endDate": str(last)}, asked.now)
            if kind == "crypto":
                records, asked = self._own_prices(records, asked)
            records = [record for record in records if str(record.get("ticker", ticker)).lower() == ticker]
            rows += parse_rows(records, timeframe, asked.zone)
        return asked.bars(rows)

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

    def _own_prices(self, records: Sequence[Record], asked: EventBuilder) -> tuple[list[Record], EventBuilder]:
        """The bars of one crypto pair, and in what they are quoted."""
        for record in records:
            prices = record.get("priceData")
            if str(record.get("ticker")).lower() == self.to_vendor(asked.symbol) and isinstance(prices, list):
                unit = unit_of(str(record.get("quoteCurrency") or "") or asked.unit.currency)
                return [row for row in prices if isinstance(row, dict)], replace(asked, unit=unit)
        return [], asked

    async def _actions(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if _kind(asked.symbol) != "share":
            raise ProviderError(Verdict.BAD_REQUEST, f"tiingo has no actions of the pair {asked.symbol}")
        asked = _placed(asked, "eod")
        first = asked.call.start or FIRST_DAY
        last = asked.call.end - timedelta(days=1) if asked.call.end else asked.now.date()
        # Only these columns: a whole history weighs on the month's allowance of bytes.
        params = {"startDate": str(first), "endDate": str(last), "columns": "divCash,splitFactor", "format": "json"}
        path = f"/tiingo/daily/{quoted(self.to_vendor(asked.symbol), safe='')}/prices"
        return [asked.actions(parse_actions(await self._records(http, path, params, asked.now)))]

    async def _quotes(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        groups = {path: [s for s in call.symbols if TOPS[_kind(s)] == path] for path in TOPS.values()}
        for path, symbols in groups.items():
            try:
                events += await self._tops(
                    path, [EventBuilder(self.profile, call, symbol, now) for symbol in symbols], http, failed
                )
            except ProviderError as error:
                if len(symbols) == len(call.symbols):
                    raise
                failed |= dict.fromkeys(symbols, error)
        return Answer(events, failed)

    async def _tops(
        self, path: str, asked: Sequence[EventBuilder], http: Http, failed: dict[str, ProviderError]
    ) -> list[PriceEvent]:
        if not asked:
            return []
        tickers = ",".join(self.to_vendor(each.symbol) for each in asked)
        records = await self._records(http, path, {"tickers": tickers}, asked[0].now)
        found = {str(record.get("ticker")).lower(): record for record in records}
        events: list[PriceEvent] = []
        for each in asked:
            spot = parse_spot(found.get(self.to_vendor(each.symbol).lower(), {}))
            if spot.price is None and spot.bid is None and spot.ask is None:
                # Left out is not unknown: only an explicit "not found" is.
                failed[each.symbol] = ProviderError(Verdict.EMPTY, f"tiingo: has no quote of {each.symbol}")
            else:
                events.append(_placed(each, "iex").quote(spot, spot.at))
        return events

    async def _records(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> list[Record]:
        return parse_records(await http.get(path, params, self._headers), now)


def _kind(symbol: str) -> str:
    pair = pair_of(symbol)
    return "share" if pair is None else "fx" if pair.fx else "crypto"


def _placed(asked: EventBuilder, share_feed: str) -> EventBuilder:
    """With the currency, zone and feed of its market. Tickers of digits are Chinese; in what those are quoted is not said."""
    if pair := pair_of(asked.symbol):
        return replace(asked, unit=Unit(pair.quote), zone="UTC", feed="consolidated")
    return replace(asked, unit=PLAIN if asked.symbol[:1].isdigit() else Unit("USD"), zone=NEW_YORK, feed=share_feed)


def _windows(call: FetchCall, timeframe: Timeframe, kind: str, now: datetime) -> Iterator[tuple[date, date]]:
    """The first and last days of the requests that cover a call."""
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


PROVIDER = Tiingo
