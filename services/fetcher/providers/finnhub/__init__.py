"""Finnhub: quotes, bars of shares, currency pairs and crypto pairs, splits and dividends. A free key has the quotes only.

Source: https://finnhub.io/docs/api
Limits: a free key has 60 calls a minute, every key 30 a second. An intraday answer holds a month at most, therefore longer ranges
are asked in windows; one of a currency or crypto pair may hold less, the newest, and is asked on for what lies before.
Units: daily, weekly and monthly prices are adjusted for splits, intraday prices of shares for nothing; dividends are as paid. Times
are epoch seconds. In what a share outside the United States is quoted is not said. The volume of a currency pair counts ticks.
Quirks: a daily candle is stamped at midnight in New York or, newer, in UTC; a currency's at 17:00 in New York, where the day opens
that it closes on. A quote of an unknown symbol is all zeros. A quote has no bid, ask or volume.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Bar, EventBuilder
from services.fetcher.adapter.fields import EPOCH, LENGTHS, day_start, period_start
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
from services.fetcher.providers.finnhub.answers import (
    Candle,
    parse_candles,
    parse_dividends,
    parse_document,
    parse_splits,
    parse_spot,
    records_in,
)
from services.fetcher.providers.finnhub.markets import Market, market_of, vendor_symbol

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
MOST_CALLS = 500


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

    def __init__(self, access: Credentials) -> None:
        self._key = access.api_key

    def to_vendor(self, symbol: str) -> str:
        """`OANDA:EUR_USD` for EUR/USD, `COINBASE:BTC-USD` for BTC/USD; BRK.B is spelled as here."""
        return vendor_symbol(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. One request a symbol, for bars one a window, for splits and dividends one each."""
        refuse_unoffered(self.profile, call)
        ask = {"bars": self._bars, "quote": self._quote, "actions": self._actions}[call.dataset]
        return await fetch_each(call.symbols, lambda symbol: ask(self._asked(call, symbol, now), http))

    def _asked(self, call: FetchCall, symbol: str, now: datetime) -> EventBuilder:
        market = market_of(self.to_vendor(symbol))
        raw = market.path == "stock" and call.timeframe in LENGTHS
        until = now - FOREIGN_DELAY if market.foreign else None
        return EventBuilder(
            self.profile, call, symbol, now, market.unit, market.zone, basis="raw" if raw else None, complete_until=until
        )

    async def _quote(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        spot = parse_spot(await self._document(http, "/api/v1/quote", asked))
        if spot is None:
            raise ProviderError(Verdict.NOT_FOUND, f"finnhub: knows no {asked.symbol}")
        if spot.price is None:
            raise ProviderError(Verdict.EMPTY, f"finnhub: has no price of {asked.symbol}")
        return [asked.quote(spot, spot.at)]

    async def _bars(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        timeframe, start, end = asked.call.timeframe or "1d", asked.call.start, asked.call.end
        if start is None or end is None:
            rows = [c.row for c in await self._candles(asked, http, asked.now - LATEST_DAYS[timeframe] * DAY, asked.now)]
            return asked.bars(rows)
        first, last = day_start(period_start(start, timeframe)), min(day_start(end), asked.now + DAY) - SECOND
        # A session may be stamped on the day before its own: in the east, and where the day opens in the evening.
        return asked.bars(await self._history(asked, http, first if timeframe in LENGTHS else first - DAY, last))

    async def _history(self, asked: EventBuilder, http: Http, first: datetime, last: datetime) -> list[Bar]:
        """The candles of a range, asked from its end backwards."""
        market, timeframe = market_of(self.to_vendor(asked.symbol)), asked.call.timeframe or "1d"
        rows: list[Bar] = []
        for _ in range(MOST_CALLS):
            if last < first:
                return rows
            begin = max(first, last - MONTH) if timeframe in LENGTHS else first
            candles = await self._candles(asked, http, begin, last)
            rows += [candle.row for candle in candles]
            earliest = min((candle.stamp for candle in candles), default=begin)
            was_cut_off = earliest - begin > _pause(market, timeframe) and earliest <= last
            last = (earliest if was_cut_off else begin) - SECOND
        raise ProviderError(
            Verdict.BAD_REQUEST, f"finnhub: {asked.symbol}: so many bars take too many calls; ask for a shorter range"
        )

    async def _candles(self, asked: EventBuilder, http: Http, begin: datetime, last: datetime) -> list[Candle]:
        market, timeframe = market_of(self.to_vendor(asked.symbol)), asked.call.timeframe or "1d"
        window = {"from": str(_epoch(begin)), "to": str(_epoch(last)), "resolution": RESOLUTIONS[timeframe]}
        return parse_candles(await self._document(http, f"/api/v1/{market.path}/candle", asked, window), market, timeframe)

    async def _actions(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if market_of(self.to_vendor(asked.symbol)).path != "stock":
            raise ProviderError(Verdict.BAD_REQUEST, f"finnhub has no actions of the pair {asked.symbol}")
        first = asked.call.start or EPOCH.date()
        last = asked.call.end - DAY if asked.call.end else asked.now.date()
        window = {"from": str(first), "to": str(last)}
        splits = parse_splits(records_in(await self._document(http, "/api/v1/stock/split", asked, window)))
        dividends, unit = parse_dividends(records_in(await self._document(http, "/api/v1/stock/dividend", asked, window)))
        return [replace(asked, unit=unit or asked.unit).actions([*splits, *dividends])]

    async def _document(self, http: Http, path: str, asked: EventBuilder, params: Mapping[str, str] | None = None) -> object:
        params = {"symbol": self.to_vendor(asked.symbol), **(params or {})}
        return parse_document(await http.get(path, params, {"X-Finnhub-Token": self._key}), asked.now, self._key)


def _pause(market: Market, timeframe: Timeframe) -> timedelta:
    """The longest time without a candle at the beginning of a whole answer."""
    if timeframe not in LENGTHS:
        return LONGEST_PAUSE[market.path] + PERIODS.get(timeframe, DAY)
    # A month of a share is always whole; of pairs an answer may hold two hours, so that any later beginning is suspicious.
    return MONTH if market.path == "stock" else 2 * LENGTHS[timeframe]


def _epoch(at: datetime) -> int:
    return max(0, int(at.timestamp()))


PROVIDER = Finnhub
