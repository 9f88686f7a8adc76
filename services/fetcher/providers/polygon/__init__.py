"""Polygon (now Massive): bars, quotes and chains of US shares, options, indices, currencies and crypto; splits and dividends.

Source: https://polygon.io/docs/rest (now https://massive.com/docs/rest)
Limits: a free key has 5 requests a minute, the days up to yesterday and two years back; a longer range is silently cut there. It
has no snapshots and no chains. A page of bars is made of at most 50000 minutes, or days where bars are of a day or longer.
Units: prices and volumes adjusted for splits, not for dividends; dollars, or a pair's quote currency. Bars are stamped in
milliseconds, quotes in nanoseconds. Days begin at midnight in New York, those of pairs at midnight UTC.
Quirks: a week begins on Sunday. A range without bars has no `results`. Links to the next page come without the key, and with less
than was asked: both are added again. A snapshot's prices of a day are zeros until its first trade.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from urllib.parse import parse_qsl, urlsplit
from urllib.parse import quote as quoted

from contracts.message import TIMEFRAMES
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Action, Bar, EventBuilder, Quote
from services.fetcher.adapter.fields import NEW_YORK, PLAIN, Unit, unit_of
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
from services.fetcher.providers.polygon.parsing import (
    Record,
    errors_of,
    parse_actions,
    parse_contract,
    parse_document,
    parse_index,
    parse_quotes,
    parse_rows,
    quote_of,
    record_of,
    results_of,
)
from services.fetcher.providers.polygon.symbols import (
    CONTRACTS,
    CRYPTO,
    FX,
    INDEX,
    INDICES,
    OPTION,
    SHARE,
    SNAPSHOTS,
    WINDOWS,
    market_of,
    quote_groups,
    span,
    today,
    trading_days,
    underlying_of,
    unit_of_ticker,
    vendor_ticker,
)

ADJUSTED = {"adjusted": "true"}
BARS = {**ADJUSTED, "sort": "asc", "limit": "50000"}
# Where splits and dividends are, and the name of their day.
ACTIONS = {"/v3/reference/splits": "execution_date", "/v3/reference/dividends": "ex_dividend_date"}


class Polygon:
    """Polygon with one key."""

    profile = Profile(
        name="polygon",
        base_url="https://api.polygon.io",
        offers={"bars": TIMEFRAMES, "quote": (), "chain": (), "actions": ()},
        basis="split",
        feed="sip",
        delay_s=900.0,
        # Bars only share calls where a day of the whole market is less than a call each: so few that others need not wait long.
        symbols_per_call={"bars": 5, "quote": 100},
        limits=Limits(per_minute=5),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._key = credentials.api_key
        self._headers = {"Authorization": f"Bearer {credentials.api_key}"}

    def to_vendor(self, symbol: str) -> str:
        """`BRK.B` as it is, `O:AAPL251219C00200000` for options, `I:SPX` for ^GSPC, `C:EURUSD` and `X:BTCUSD` for pairs."""
        return vendor_ticker(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Quotes of a market share a request, as do days of several shares; all else takes one a symbol."""
        refuse_unoffered(self.profile, call)

        def builder_of(symbol: str) -> EventBuilder:
            return _with_listing(EventBuilder(self.profile, call, symbol, now))

        if call.dataset == "quote":
            return await fetch_in_groups(
                quote_groups(call.symbols), lambda group: self._quotes([builder_of(s) for s in group], http)
            )
        if call.dataset == "bars":
            days, shares = trading_days(call, now), [s for s in call.symbols if market_of(vendor_ticker(s)) == SHARE]
            if 0 < len(days) < len(shares):
                groups = [shares, *([s] for s in call.symbols if s not in shares)]
                return await fetch_in_groups(groups, lambda group: self._market([builder_of(s) for s in group], days, http))
        ask = {"bars": self._bars, "chain": self._chain, "actions": self._actions}[call.dataset]
        return await fetch_each(call.symbols, lambda symbol: ask(builder_of(symbol), http))

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        timeframe, ticker = builder.call.timeframe or "1d", quoted(vendor_ticker(builder.symbol), safe=":")
        path = f"/v2/aggs/ticker/{ticker}/range/{WINDOWS[timeframe]}/{span(builder.call, timeframe, builder.now)}"
        documents = await self._pages(http, path, BARS, builder.now)
        return _as_adjusted(builder, documents).bars(parse_rows(results_of(documents), timeframe, builder.zone))

    async def _market(self, builders: Sequence[EventBuilder], days: Sequence[date], http: Http) -> Answer:
        """Fetch the days of several shares out of those of the whole market."""
        if len(builders) == 1:
            return Answer(await self._bars(builders[0], http))
        rows: dict[str, list[Bar]] = {vendor_ticker(each.symbol): [] for each in builders}
        documents: list[Record] = []
        for day in days:
            try:
                path = f"/v2/aggs/grouped/locale/us/market/stocks/{day}"
                documents.append(await self._document(http, path, ADJUSTED, builders[0].now))
            except ProviderError as error:
                # Only a paid key may see today before it is over; the days before are the answer without it.
                if error.verdict is not Verdict.PLAN_RESTRICTED or not documents or day < today(builders[0].now):
                    raise
        for record in results_of(documents):
            if (ticker := str(record.get("T"))) in rows:
                rows[ticker] += parse_rows(iter([record]), "1d", NEW_YORK)
        return Answer([e for each in builders for e in _as_adjusted(each, documents).bars(rows[vendor_ticker(each.symbol)])])

    async def _quotes(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        tickers, now = [vendor_ticker(each.symbol) for each in builders], builders[0].now
        market = market_of(tickers[0])
        quotes: dict[str, Quote | None]
        failed: dict[str, ProviderError] = {}
        if market == OPTION:
            path = f"{CONTRACTS}/{quoted(underlying_of(tickers[0]), safe=':')}/{quoted(tickers[0], safe=':')}"
            document = await self._document(http, path, {}, now)
            quotes = {tickers[0]: quote_of(record_of(document.get("results")))}
        elif market == INDEX:
            pages = await self._pages(http, INDICES, {"ticker.any_of": ",".join(tickers), "limit": "250"}, now)
            document, failed = pages[0], errors_of(results_of(pages))
            quotes = {str(record.get("ticker")): parse_index(record) for record in results_of(pages)}
        else:
            alone, several = f"{SNAPSHOTS[market]}/{quoted(tickers[0], safe=':')}", {"tickers": ",".join(tickers)}
            where = (SNAPSHOTS[market], several) if len(tickers) > 1 else (alone, {})
            document = await self._document(http, *where, now)
            quotes = parse_quotes(document, tickers)
        feed = "delayed" if str(document.get("status")).upper() == "DELAYED" else ""
        return _answer_of(builders, quotes, failed, feed)

    async def _chain(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        ticker = vendor_ticker(builder.symbol)
        if market_of(ticker) not in (SHARE, INDEX):
            raise ProviderError(Verdict.BAD_REQUEST, f"polygon has no option chain of {builder.symbol}")
        documents = await self._pages(http, f"{CONTRACTS}/{quoted(ticker, safe=':')}", {"limit": "250"}, builder.now)
        records = list(results_of(documents))
        is_delayed = any(record_of(record.get("last_quote")).get("timeframe") == "DELAYED" for record in records)
        contracts = [contract for record in records if (contract := parse_contract(record))]
        return replace(builder, unit=Unit("USD"), feed="delayed" if is_delayed else "consolidated").chain(contracts)

    async def _actions(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        ticker, start, end = vendor_ticker(builder.symbol), builder.call.start, builder.call.end
        if market_of(ticker) != SHARE:
            raise ProviderError(Verdict.BAD_REQUEST, f"polygon has actions of shares only, not of {builder.symbol}")
        actions: list[Action] = []
        records: list[Record] = []
        unknown: list[ProviderError] = []
        for path, day in ACTIONS.items():
            params = {"ticker": ticker, "limit": "1000", "sort": day, "order": "asc"}
            params |= ({f"{day}.gte": str(start)} if start else {}) | ({f"{day}.lt": str(end)} if end else {})
            try:
                found = list(results_of(await self._pages(http, path, params, builder.now)))
            except ProviderError as error:
                # Known to one of the two is known.
                if error.verdict is not Verdict.NOT_FOUND:
                    raise
                unknown.append(error)
                continue
            records += found
            actions += parse_actions(iter(found), ticker)
        if len(unknown) == len(ACTIONS):
            raise unknown[0]
        return [replace(builder, unit=_money(records)).actions(actions)]

    async def _pages(self, http: Http, path: str, params: dict[str, str], now: datetime) -> list[Record]:
        async def ask(link: str) -> tuple[Record, str]:
            parts = urlsplit(link)
            # The link's host may be another than ours, and its query lacks what its cursor does not hold.
            query = {name: value for name, value in parse_qsl(parts.query) if name.lower() != "apikey"}
            document = await self._document(http, parts.path or path, params | query, now)
            return document, str(document.get("next_url") or "")

        return await fetch_pages("polygon", ask)

    async def _document(self, http: Http, path: str, params: dict[str, str], now: datetime) -> Record:
        return parse_document(await http.get(path, params, self._headers), now, self._key)


def _with_listing(builder: EventBuilder) -> EventBuilder:
    """Return the builder with the currency, zone and feed of its market."""
    ticker = vendor_ticker(builder.symbol)
    market = market_of(ticker)
    zone = "UTC" if market in (CRYPTO, FX) else NEW_YORK
    return replace(builder, unit=unit_of_ticker(ticker), zone=zone, feed="" if market == SHARE else "consolidated")


def _as_adjusted(builder: EventBuilder, documents: Sequence[Record]) -> EventBuilder:
    """Return an answer says whether its prices are adjusted; should they not be, they belong to another series."""
    if any(document.get("adjusted") is False for document in documents):
        return replace(builder, profile=replace(builder.profile, basis="raw"))
    return builder


def _answer_of(
    builders: Sequence[EventBuilder], quotes: dict[str, Quote | None], errors: dict[str, ProviderError], feed: str
) -> Answer:
    events: list[PriceEvent] = []
    failed: dict[str, ProviderError] = {}
    for each in builders:
        ticker = vendor_ticker(each.symbol)
        quote = quotes.get(ticker)
        if ticker in errors:
            failed[each.symbol] = errors[ticker]
        elif quote is None:
            failed[each.symbol] = ProviderError(Verdict.NOT_FOUND, f"polygon: knows no {each.symbol}")
        elif quote.price is None and quote.bid is None and quote.ask is None:
            failed[each.symbol] = ProviderError(Verdict.EMPTY, f"polygon: has no quote of {each.symbol}")
        else:
            events.append(replace(each, feed=feed or each.feed).quote(quote, quote.at))
    return Answer(events, failed)


def _money(records: Sequence[Record]) -> Unit:
    """Return the currency of the dividends; unknown where they are of several."""
    named = {unit_of(record["currency"]) for record in records if record.get("currency")}
    return Unit("USD") if not named else named.pop() if len(named) == 1 else PLAIN


PROVIDER = Polygon
