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
from services.fetcher.adapter.fields import PLAIN, Unit, unit_of
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
from services.fetcher.providers.polygon.answers import (
    NEW_YORK,
    Record,
    errors_of,
    parse_actions,
    parse_contract,
    parse_document,
    parse_index,
    parse_rows,
    parse_spots,
    record_of,
    results_of,
    spot_of,
)
from services.fetcher.providers.polygon.markets import (
    CONTRACTS,
    CRYPTO,
    FX,
    INDEX,
    INDICES,
    OPTION,
    SHARE,
    SNAPSHOTS,
    market_of,
    quote_groups,
    underlying_of,
    unit_of_ticker,
    vendor_ticker,
)
from services.fetcher.providers.polygon.ranges import WINDOWS, span, today, trading_days

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

    def __init__(self, access: Credentials) -> None:
        self._key = access.api_key
        self._headers = {"Authorization": f"Bearer {access.api_key}"}

    def to_vendor(self, symbol: str) -> str:
        """`BRK.B` as it is, `O:AAPL251219C00200000` for options, `I:SPX` for ^GSPC, `C:EURUSD` and `X:BTCUSD` for pairs."""
        return vendor_ticker(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Quotes of a market share a request, as do days of several shares; all else takes one a symbol."""
        refuse_unoffered(self.profile, call)

        def asked(symbol: str) -> EventBuilder:
            return _placed(EventBuilder(self.profile, call, symbol, now))

        if call.dataset == "quote":
            return await fetch_in_groups(quote_groups(call.symbols), lambda group: self._quotes([asked(s) for s in group], http))
        if call.dataset == "bars":
            days, shares = trading_days(call, now), [s for s in call.symbols if market_of(vendor_ticker(s)) == SHARE]
            if 0 < len(days) < len(shares):
                groups = [shares, *([s] for s in call.symbols if s not in shares)]
                return await fetch_in_groups(groups, lambda group: self._market([asked(s) for s in group], days, http))
        ask = {"bars": self._bars, "chain": self._chain, "actions": self._actions}[call.dataset]
        return await fetch_each(call.symbols, lambda symbol: ask(asked(symbol), http))

    async def _bars(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        timeframe, ticker = asked.call.timeframe or "1d", quoted(vendor_ticker(asked.symbol), safe=":")
        path = f"/v2/aggs/ticker/{ticker}/range/{WINDOWS[timeframe]}/{span(asked.call, timeframe, asked.now)}"
        documents = await self._pages(http, path, BARS, asked.now)
        return _as_adjusted(asked, documents).bars(parse_rows(results_of(documents), timeframe, asked.zone))

    async def _market(self, asked: Sequence[EventBuilder], days: Sequence[date], http: Http) -> Answer:
        """The days of several shares out of those of the whole market."""
        if len(asked) == 1:
            return Answer(await self._bars(asked[0], http))
        rows: dict[str, list[Bar]] = {vendor_ticker(each.symbol): [] for each in asked}
        documents: list[Record] = []
        for day in days:
            try:
                path = f"/v2/aggs/grouped/locale/us/market/stocks/{day}"
                documents.append(await self._document(http, path, ADJUSTED, asked[0].now))
            except ProviderError as error:
                # Only a paid key may see today before it is over; the days before are the answer without it.
                if error.verdict is not Verdict.PLAN_RESTRICTED or not documents or day < today(asked[0].now):
                    raise
        for record in results_of(documents):
            if (ticker := str(record.get("T"))) in rows:
                rows[ticker] += parse_rows(iter([record]), "1d", NEW_YORK)
        return Answer([e for each in asked for e in _as_adjusted(each, documents).bars(rows[vendor_ticker(each.symbol)])])

    async def _quotes(self, asked: Sequence[EventBuilder], http: Http) -> Answer:
        tickers, now = [vendor_ticker(each.symbol) for each in asked], asked[0].now
        market = market_of(tickers[0])
        spots: dict[str, Quote | None]
        failed: dict[str, ProviderError] = {}
        if market == OPTION:
            path = f"{CONTRACTS}/{quoted(underlying_of(tickers[0]), safe=':')}/{quoted(tickers[0], safe=':')}"
            document = await self._document(http, path, {}, now)
            spots = {tickers[0]: spot_of(record_of(document.get("results")))}
        elif market == INDEX:
            pages = await self._pages(http, INDICES, {"ticker.any_of": ",".join(tickers), "limit": "250"}, now)
            document, failed = pages[0], errors_of(results_of(pages))
            spots = {str(record.get("ticker")): parse_index(record) for record in results_of(pages)}
        else:
            alone, several = f"{SNAPSHOTS[market]}/{quoted(tickers[0], safe=':')}", {"tickers": ",".join(tickers)}
            where = (SNAPSHOTS[market], several) if len(tickers) > 1 else (alone, {})
            document = await self._document(http, *where, now)
            spots = parse_spots(document, tickers)
        feed = "delayed" if str(document.get("status")).upper() == "DELAYED" else ""
        return _answer_of(asked, spots, failed, feed)

    async def _chain(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        ticker = vendor_ticker(asked.symbol)
        if market_of(ticker) not in (SHARE, INDEX):
            raise ProviderError(Verdict.BAD_REQUEST, f"polygon has no option chain of {asked.symbol}")
        documents = await self._pages(http, f"{CONTRACTS}/{quoted(ticker, safe=':')}", {"limit": "250"}, asked.now)
        records = list(results_of(documents))
        is_delayed = any(record_of(record.get("last_quote")).get("timeframe") == "DELAYED" for record in records)
        contracts = [contract for record in records if (contract := parse_contract(record))]
        return replace(asked, unit=Unit("USD"), feed="delayed" if is_delayed else "consolidated").chain(contracts)

    async def _actions(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        ticker, start, end = vendor_ticker(asked.symbol), asked.call.start, asked.call.end
        if market_of(ticker) != SHARE:
            raise ProviderError(Verdict.BAD_REQUEST, f"polygon has actions of shares only, not of {asked.symbol}")
        actions: list[Action] = []
        records: list[Record] = []
        unknown: list[ProviderError] = []
        for path, day in ACTIONS.items():
            params = {"ticker": ticker, "limit": "1000", "sort": day, "order": "asc"}
            params |= ({f"{day}.gte": str(start)} if start else {}) | ({f"{day}.lt": str(end)} if end else {})
            try:
                found = list(results_of(await self._pages(http, path, params, asked.now)))
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
        return [replace(asked, unit=_money(records)).actions(actions)]

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


def _placed(asked: EventBuilder) -> EventBuilder:
    """With the currency, zone and feed of its market."""
    ticker = vendor_ticker(asked.symbol)
    market = market_of(ticker)
    zone = "UTC" if market in (CRYPTO, FX) else NEW_YORK
    return replace(asked, unit=unit_of_ticker(ticker), zone=zone, feed="" if market == SHARE else "consolidated")


def _as_adjusted(asked: EventBuilder, documents: Sequence[Record]) -> EventBuilder:
    """An answer says whether its prices are adjusted; should they not be, they belong to another series."""
    if any(document.get("adjusted") is False for document in documents):
        return replace(asked, profile=replace(asked.profile, basis="raw"))
    return asked


def _answer_of(
    asked: Sequence[EventBuilder], spots: dict[str, Quote | None], errors: dict[str, ProviderError], feed: str
) -> Answer:
    events: list[PriceEvent] = []
    failed: dict[str, ProviderError] = {}
    for each in asked:
        ticker = vendor_ticker(each.symbol)
        spot = spots.get(ticker)
        if ticker in errors:
            failed[each.symbol] = errors[ticker]
        elif spot is None:
            failed[each.symbol] = ProviderError(Verdict.NOT_FOUND, f"polygon: knows no {each.symbol}")
        elif spot.price is None and spot.bid is None and spot.ask is None:
            failed[each.symbol] = ProviderError(Verdict.EMPTY, f"polygon: has no quote of {each.symbol}")
        else:
            events.append(replace(each, feed=feed or each.feed).quote(spot, spot.at))
    return Answer(events, failed)


def _money(records: Sequence[Record]) -> Unit:
    """The currency of the dividends; unknown where they are of several."""
    named = {unit_of(record["currency"]) for record in records if record.get("currency")}
    return Unit("USD") if not named else named.pop() if len(named) == 1 else PLAIN


PROVIDER = Polygon
