"""Alpaca: bars, quotes, option chains, splits and dividends of US shares; bars and quotes of options and crypto; currency rates.

Source: https://docs.alpaca.markets/reference/stockbars (and the pages beside it)
Limits: a free account has 200 requests a minute, a paid one 10000. A page holds 10000 bars of all symbols together, one symbol
after the other. A free account sees the consolidated tape (SIP) and options 15 minutes late, IEX, crypto and currencies at once.
Units: dollars per share, raw; a pair's prices in its quote currency. Times are instants in UTC: a share's day, week or month begins
at midnight in New York, that of a crypto pair at midnight UTC. The first quotes of a day are often crossed.
Quirks: an unknown symbol looks like a range without bars; in snapshots it is null. The newest minutes have an endpoint of their
own. A refused key and a plan that lacks something are both 403.
Options: `feed` is `sip` with a paid plan, else `iex` or `delayed_sip`; without it bars are the late SIP's and quotes those of IEX.
`option_feed` is `opra` with a paid plan, else `indicative`. `auth = "basic"` is for broker partners.
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from urllib.parse import quote as quoted

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Action, Bar, EventBuilder
from services.fetcher.adapter.fields import Unit
from services.fetcher.adapter.responses import fetch_each, fetch_in_groups, fetch_pages
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
from services.fetcher.providers.alpaca.parsing import (
    Record,
    parse_actions,
    parse_bars,
    parse_chain,
    parse_document,
    parse_quote,
    parse_rates,
    parse_snapshots,
    parse_unit,
)
from services.fetcher.providers.alpaca.symbols import (
    BARS,
    LABELS,
    LATE,
    NEWEST,
    RATES,
    SECOND,
    SNAPSHOTS,
    Source,
    groups,
    kind_of,
    span,
    vendor_symbol,
)

INTERVALS: dict[Timeframe, str] = {
    "1m": "1Min", "5m": "5Min", "15m": "15Min", "30m": "30Min", "1h": "1Hour", "1d": "1Day", "1wk": "1Week", "1mo": "1Month"
}  # fmt: skip
MAX_BARS = 10000  # a page
MAX_MINUTES = 500  # before the newest
KINDS_OF_ACTIONS = "forward_split,reverse_split,stock_dividend,cash_dividend"
FIRST_DAY = date(1990, 1, 1)  # nothing is older
# Actions are found by the day they are processed: mostly when they are paid, months after the ex-date, at times just before it.
PAID_BEFORE, PAID_AFTER = timedelta(days=30), timedelta(days=180)

Rows = tuple[dict[str, list[Bar]], Unit | None]
Ask = Callable[[Sequence[EventBuilder], Http], Awaitable[Answer]]


class Alpaca:
    """Alpaca's market data with one account's keys."""

    profile = Profile(
        name="alpaca",
        base_url="https://data.alpaca.markets",
        offers={"bars": TIMEFRAMES, "quote": (), "chain": (), "actions": ()},
        basis="raw",
        feed="sip",
        delay_s=LATE.total_seconds(),
        symbols_per_call={"bars": 50, "quote": 100, "actions": 50},
        limits=Limits(per_minute=200),
        secrets=("api_key", "api_secret"),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._source = Source.of(credentials.options)
        basic = b64encode(f"{credentials.api_key}:{credentials.api_secret}".encode()).decode()
        self._secrets = (credentials.api_key, credentials.api_secret, basic)
        if credentials.options.get("auth") == "basic":
            self._headers = {"Authorization": f"Basic {basic}"}
        else:
            self._headers = {"APCA-API-KEY-ID": credentials.api_key, "APCA-API-SECRET-KEY": credentials.api_secret}

    def to_vendor(self, symbol: str) -> str:
        """`BRK.B` as it is, `AAPL251219C00200000` for `O:AAPL251219C00200000`, `BTC/USD` and `EURUSD` for pairs."""
        return vendor_symbol(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Symbols of a kind share requests and their pages; each chain has its own."""
        refuse_unoffered(self.profile, call)

        def builder_of(symbol: str) -> EventBuilder:
            return self._source.placed(EventBuilder(self.profile, call, symbol, now))

        if call.dataset == "chain":
            return await fetch_each(call.symbols, lambda symbol: self._chain(builder_of(symbol), http))
        ask = {"bars": self._bars, "quote": self._quotes, "actions": self._actions}[call.dataset]
        return await fetch_in_groups(groups(call.symbols), lambda group: self._all_known([builder_of(s) for s in group], http, ask))

    async def _all_known(self, builders: Sequence[EventBuilder], http: Http, ask: Ask) -> Answer:
        """Ask again without the symbols for which the vendor, calling one invalid, refuses all of them."""
        try:
            return await ask(builders, http)
        except ProviderError as error:
            if error.verdict is not Verdict.NOT_FOUND or len(builders) == 1 or "symbol" not in error.message:
                raise
            words = error.message.upper().replace(",", " ").split()
            named = {each.symbol: error for each in builders if vendor_symbol(each.symbol) in words}
        half = len(builders) // 2
        parts = [[each for each in builders if each.symbol not in named]] if named else [builders[:half], builders[half:]]
        found = await fetch_in_groups(
            [[each.symbol for each in part] for part in parts if part],
            lambda group: self._all_known([each for each in builders if each.symbol in group], http, ask),
        )
        return Answer(found.events, {**found.failed, **named})

    async def _bars(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        kind, call = kind_of(builders[0].symbol), builders[0].call
        if kind == "fx":
            raise ProviderError(Verdict.BAD_REQUEST, "alpaca has no bars of currencies, only their rates of now")
        if call.start is None and call.timeframe == "1m" and kind in NEWEST:
            found, unit = await self._newest(builders, http)
        else:
            first, last = span(builders[0])
            # What lies across the end of the range that was asked for is cut there.
            builders = [replace(each, complete_until=last + SECOND) for each in builders]
            found, unit = await self._rows(builders, http, first, last)
        events: list[PriceEvent] = []
        for each in builders:
            placed = replace(each, unit=unit) if unit else each
            events += placed.bars(found.get(vendor_symbol(each.symbol), []))
        return Answer(events)

    async def _newest(self, builders: Sequence[EventBuilder], http: Http) -> Rows:
        """Fetch the newest minute of each, whenever that was, after as many before the newest of all as fit on a page."""
        kind = kind_of(builders[0].symbol)
        params = {"symbols": _list(builders)} | ({"feed": self._source.shares.newest} if kind == "share" else {})
        document = await self._document(http, NEWEST[kind], params, builders[0].now)
        found = parse_bars(document)
        newest = max((rows[-1].at for rows in found.values() if rows), default=None)
        if newest is None:
            return found, None
        first = newest - timedelta(minutes=min(MAX_MINUTES, MAX_BARS // len(builders)) - 1)
        try:
            before, unit = await self._rows(builders, http, first, span(builders[0])[1])
        except ProviderError:
            return found, parse_unit(document)  # the newest minutes are an answer without those before them
        return {symbol: [*before.get(symbol, []), *rows] for symbol, rows in found.items()}, unit

    async def _rows(self, builders: Sequence[EventBuilder], http: Http, first: datetime, last: datetime) -> Rows:
        """Fetch the bars of all pages by the vendor's symbol: one may begin on a page and go on two pages later."""
        found: dict[str, list[Bar]] = defaultdict(list)
        if first > last:
            return found, None  # of what began so late nothing is to be seen yet
        kind, timeframe = kind_of(builders[0].symbol), builders[0].call.timeframe or "1d"
        params = {"symbols": _list(builders), "timeframe": INTERVALS[timeframe], "start": _text(first), "end": _text(last)}
        params |= {"limit": str(MAX_BARS), "sort": "asc"}
        if kind == "share":
            params |= {"adjustment": "raw", "feed": self._source.shares.bars}
        unit = None
        for document in await self._pages(http, BARS[kind], params, builders[0].now):
            unit = parse_unit(document) or unit
            for symbol, rows in parse_bars(document).items():
                found[symbol] += rows
        return found, unit

    async def _quotes(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        kind, now = kind_of(builders[0].symbol), builders[0].now
        feed = self._source.quotes(kind)
        if kind == "fx":
            quotes = parse_rates(await self._document(http, RATES, {"currency_pairs": _list(builders)}, now))
        else:
            params = {"symbols": _list(builders)} | ({"feed": feed} if feed else {})
            pages = await self._pages(http, SNAPSHOTS[kind], params, now)
            quotes = {symbol: parse_quote(found) for page in pages for symbol, found in parse_snapshots(page).items()}
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for each in builders:
            quote = quotes.get(vendor_symbol(each.symbol))
            if quote is None:
                failed[each.symbol] = ProviderError(Verdict.NOT_FOUND, f"alpaca: knows no {each.symbol}")
            elif quote.price is None and quote.bid is None and quote.ask is None:
                failed[each.symbol] = ProviderError(Verdict.EMPTY, f"alpaca: has no quote of {each.symbol}")
            else:
                events.append(replace(each, feed=LABELS.get(feed, feed)).quote(quote, quote.at))
        return Answer(events, failed)

    async def _chain(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if kind_of(builder.symbol) != "share":
            raise ProviderError(Verdict.BAD_REQUEST, f"alpaca has no option chain of {builder.symbol}")
        path = f"/v1beta1/options/snapshots/{quoted(vendor_symbol(builder.symbol), safe='')}"
        pages = await self._pages(http, path, {"feed": self._source.options, "limit": "1000"}, builder.now)
        contracts = [contract for page in pages for contract in parse_chain(page)]
        return replace(builder, feed=LABELS[self._source.options]).chain(contracts)

    async def _actions(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        if (kind := kind_of(builders[0].symbol)) != "share":
            raise ProviderError(Verdict.BAD_REQUEST, f"alpaca has actions of shares only, {builders[0].symbol} is {kind}")
        call, now = builders[0].call, builders[0].now
        params = {"symbols": _list(builders), "types": KINDS_OF_ACTIONS, "limit": "1000", "sort": "asc"}
        params["start"] = str(call.start - PAID_BEFORE if call.start else FIRST_DAY)
        params["end"] = str((call.end or now.date()) + PAID_AFTER)
        found: dict[str, list[Action]] = defaultdict(list)
        for page in await self._pages(http, "/v1/corporate-actions", params, now):
            for symbol, action in parse_actions(page):
                found[symbol].append(action)
        return Answer([each.actions(found[vendor_symbol(each.symbol)]) for each in builders])

    async def _pages(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> list[Record]:
        async def ask(token: str) -> tuple[Record, str]:
            document = await self._document(http, path, {**params, "page_token": token} if token else params, now)
            return document, str(document.get("next_page_token") or "")

        return await fetch_pages("alpaca", ask)

    async def _document(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> Record:
        return parse_document(await http.get(path, params, self._headers), now, *self._secrets)


def _list(builders: Sequence[EventBuilder]) -> str:
    return ",".join(vendor_symbol(each.symbol) for each in builders)


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


PROVIDER = Alpaca
