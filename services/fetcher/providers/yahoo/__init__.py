"""Yahoo Finance: bars, splits and dividends from its chart API; quotes and option chains with cookie and crumb. Not official.

Source: https://query1.finance.yahoo.com/v8/finance/chart/AAPL (no documentation is published)
Limits: none published; one or two requests a second are borne, and only with a browser's User-Agent. 1m bars reach 30 days back,
at most 8 days a request; 5m to 30m bars 60 days, 1h bars 730 days.
Units: prices are adjusted for splits, `adjusted_close` for dividends too; their float32 noise is rounded away, pence and the like
are divided by 100. A 1d bar is stamped at the session's opening: its date is that instant's in the exchange's zone, whose offset
then is not today's `gmtoffset`. A volume of 0 is unknown for currencies, funds and indices.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote as quoted

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Bar, EventBuilder
from services.fetcher.adapter.fields import LENGTHS, dashed_class, day_start, from_epoch, pair_of, period_start, unit_of
from services.fetcher.adapter.responses import check_zone, fetch_each
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
from services.fetcher.providers.yahoo.answers import (
    Chain,
    Chart,
    parse_actions,
    parse_contracts,
    parse_results,
    parse_rows,
    parse_spot,
)
from services.fetcher.providers.yahoo.crumb import Visitor

# So many days hold 500 bars of regular sessions, and are within what Yahoo gives in one request.
LATEST_DAYS: dict[Timeframe, int] = {"1m": 7, "5m": 14, "15m": 30, "30m": 59, "1h": 110, "1d": 740, "1wk": 3530, "1mo": 15300}
WINDOW_DAYS: dict[Timeframe, int] = {"1m": 7}
LONGEST_DELAY = timedelta(minutes=30)
ALL_DAYS = 50_000  # a range that is longer than any listing
EXCHANGES = "FLTV"  # Frankfurt, London, Tokyo, TSX Venture: their suffixes look like a share's class
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"


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

    def __init__(self, access: Credentials) -> None:
        self._visitor = Visitor(str(access.options.get("user_agent") or BROWSER))

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

    async def _bars(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        rows: list[Bar] = []
        timeframe = asked.call.timeframe or "1d"
        for window in _windows(asked.call, timeframe, asked.now):
            chart = await self._chart(asked, http, timeframe, window)
            if chart is not None:
                asked = _placed(asked, chart)
                rows += _without_live_row(parse_rows(chart), timeframe, asked)
        return asked.bars(rows)

    async def _actions(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        start = day_start(asked.call.start) if asked.call.start else asked.now - timedelta(days=ALL_DAYS)
        end = day_start(asked.call.end) if asked.call.end else asked.now
        chart = await self._chart(asked, http, "1d", (start - timedelta(days=1), end + timedelta(days=1)))
        return [asked.actions([])] if chart is None else [_placed(asked, chart).actions(parse_actions(chart))]

    async def _chart(self, asked: EventBuilder, http: Http, interval: str, window: tuple[datetime, datetime]) -> Chart | None:
        """None: Yahoo says that there is nothing in the window."""
        params = {
            "period1": str(int(window[0].timestamp())),
            "period2": str(int(window[1].timestamp())),
            "interval": interval,
            "events": "div|split",
            "includePrePost": "false",
            "includeAdjustedClose": "true",
        }
        path = f"/v8/finance/chart/{quoted(self.to_vendor(asked.symbol), safe='')}"
        try:
            charts = parse_results(await http.get(path, params, self._visitor.headers), Chart, asked.now)
        except ProviderError as error:
            if error.verdict is Verdict.EMPTY:
                return None
            raise
        return charts[0] if charts else None

    async def _chain(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        path = f"/v7/finance/options/{quoted(self.to_vendor(asked.symbol), safe='')}"
        plain = {"formatted": "false"}
        chains = parse_results(await self._visitor.get(http, path, plain, asked.now), Chain, asked.now)
        if not chains:
            raise ProviderError(Verdict.NOT_FOUND, f"yahoo: knows no {asked.symbol}")
        contracts = list(parse_contracts(chains[0]))
        for date in chains[0].missing_dates():
            reply = await self._visitor.get(http, path, plain | {"date": str(date)}, asked.now)
            for chain in parse_results(reply, Chain, asked.now):
                contracts += parse_contracts(chain)
        return asked.chain(contracts)

    async def _quotes(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        params = {"symbols": ",".join(map(self.to_vendor, call.symbols)), "formatted": "false"}
        results = parse_results(await self._visitor.get(http, "/v7/finance/quote", params, now), dict[str, Any], now)
        found = {str(row.get("symbol", "")).upper(): row for row in results}
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for symbol in call.symbols:
            row = found.get(self.to_vendor(symbol).upper(), {})
            spot = parse_spot(row)
            if spot.price is None and spot.bid is None and spot.ask is None:
                failed[symbol] = ProviderError(Verdict.NOT_FOUND, f"yahoo: has no quote of {symbol}")
            else:
                unit = unit_of(row.get("currency"))
                events.append(EventBuilder(self.profile, call, symbol, now, unit).quote(spot, spot.at))
        return Answer(events, failed)


def _windows(call: FetchCall, timeframe: Timeframe, now: datetime) -> list[tuple[datetime, datetime]]:
    """The requests that cover a call. For days one more on either side, as a session can begin on another UTC date than its own."""
    if call.start is None or call.end is None:
        return [(now - timedelta(days=LATEST_DAYS[timeframe]), now + timedelta(days=1))]
    start, end = day_start(period_start(call.start, timeframe)), day_start(call.end)
    if timeframe not in LENGTHS:
        return [(start - timedelta(days=1), end + timedelta(days=1))]
    step = timedelta(days=WINDOW_DAYS.get(timeframe) or (end - start).days)
    edges = [start + step * i for i in range(-(-(end - start) // step))]
    return [(edge, min(edge + step, end)) for edge in edges]


def _placed(asked: EventBuilder, chart: Chart) -> EventBuilder:
    zone = check_zone("yahoo", chart.meta.exchange_timezone_name)
    # Many exchanges are delayed, and a chart does not say by how much: only what lies before the last trade is complete.
    last_trade = from_epoch(chart.meta.regular_market_time) or asked.now
    complete_until = min(asked.now, max(last_trade, asked.now - LONGEST_DELAY))
    return replace(asked, unit=unit_of(chart.meta.currency), zone=zone, complete_until=complete_until)


def _without_live_row(rows: list[Bar], timeframe: Timeframe, asked: EventBuilder) -> list[Bar]:
    """The rows with the last folded into the one before, where Yahoo gives the price of now as a row of its own."""
    if len(rows) < 2 or rows[-1].close is None:
        return rows
    *before, bar, live = rows
    length = LENGTHS.get(timeframe)
    if live.at - bar.at >= length if length else asked.label(live.at) != asked.label(bar.at):
        return rows
    highs = [high for high in (bar.high, live.high) if high is not None]
    lows = [low for low in (bar.low, live.low) if low is not None]
    # The live row of a day counts the whole day, that of a longer or shorter bar only what came after.
    volumes = [live.volume] if timeframe == "1d" and live.volume else [v for v in (bar.volume, live.volume) if v is not None]
    start = live.open if bar.open is None else bar.open
    folded = Bar(bar.at, start, max(highs, default=None), min(lows, default=None), live.close, sum(volumes), live.adjusted_close)
    return [*before, folded if volumes else folded._replace(volume=None)]


PROVIDER = Yahoo
