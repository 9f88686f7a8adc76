"""Databento: bars of trades, and the best bid and ask, of shares, futures and options; option chains of what America lists.

Source: https://databento.com/docs/api-reference-historical/timeseries/timeseries-get-range
Limits: 100 requests a second; a request may name 2000 symbols, ours 100. There is no free plan: every byte of an answer is
billed, a refusal is not. Without a live licence the newest day is not to be had.
Units: raw prices; shares or contracts. Instants are UTC, a bar's is its start; a daily bar is the UTC day's, with what trades
before and after the session in it. A minute, hour or day without a trade has no bar.
Quirks: where a data set holds several venues each has a record of its own for one instant. Tomorrow a symbol may mean another
instrument. A range that reaches past what is there is refused as a whole, but with the bounds: it is asked for again within.
Days of reduced quality are told of in a header only, and taken as they are.
Symbols: raw ones as they are (ESH4), ES.c.0 for a continuous future, `AAPL  250221C00250000` or `O:AAPL250221C00250000` for an
option, a number for an instrument's id. The setting `dataset` names the data set (XNAS.ITCH); without it shares are asked of
EQUS.MINI, futures of GLBX.MDP3, options of OPRA.PILLAR. A chain is that of a root: SPX has one, SPXW another. It has neither
volume, open interest nor greeks, which would be further bills for every contract.
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from contracts.message import Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import EventBuilder
from services.fetcher.adapter.fields import LENGTHS, Unit, day_start
from services.fetcher.adapter.responses import fetch_each, fetch_in_groups
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
from services.fetcher.providers.databento.chain import contracts_of
from services.fetcher.providers.databento.parsing import consolidated, last_trade, top_of_book
from services.fetcher.providers.databento.requests import LONGEST_CLOSURE, FetchedRecords, Requests, TimeRange
from services.fetcher.providers.databento.symbols import (
    OPTIONS,
    currency_of,
    dataset_of,
    feed_of,
    kind_of,
    parent_of,
    refuse_many,
    to_vendor,
)

BARS_A_DAY: dict[Timeframe, int] = {"1m": 1440, "1h": 24, "1d": 1}
# So many days hold 500 bars, or a long weekend and a day of trading before it.
LATEST_DAYS: dict[Timeframe, int] = {"1m": 5, "1h": 50, "1d": 740}
RECORDS = 100_000  # in one answer, if there is one venue: 6 MB unpacked, and read in less than a second
BOOK_AGE, TRADE_AGE = timedelta(hours=1), timedelta(days=5)


class Databento:
    """Databento with one key."""

    profile = Profile(
        name="databento",
        base_url="https://hist.databento.com",
        offers={"bars": ("1m", "1h", "1d"), "quote": (), "chain": ()},
        basis="raw",
        feed="venue",
        delay_s=900.0,
        symbols_per_call={"bars": 100, "quote": 100},
        limits=Limits(per_second=100),
    )

    def __init__(self, credentials: Credentials) -> None:
        token = b64encode(f"{credentials.api_key}:".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}"}
        self._secrets = (credentials.api_key, token)
        self._dataset = credentials.dataset.strip().upper()

    def to_vendor(self, symbol: str) -> str:
        """`BRK.B` as it is, `ES.c.0` for ES.C.0, `AAPL  250221C00250000` for O:AAPL250221C00250000."""
        return to_vendor(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. The symbols of a data set share requests, each for as long a range as an answer can hold."""
        refuse_unoffered(self.profile, call)
        if call.dataset == "chain":
            return await fetch_each(call.symbols, lambda symbol: self._chain(EventBuilder(self.profile, call, symbol, now), http))
        batches: dict[tuple[str, str], list[str]] = defaultdict(list)
        failed: dict[str, ProviderError] = {}
        for symbol in call.symbols:
            spelling = to_vendor(symbol)
            try:
                refuse_many(spelling)
            except ProviderError as error:
                failed[symbol] = error
            else:
                batches[dataset_of(spelling, self._dataset), kind_of(spelling)].append(symbol)
        ask = self._bars if call.dataset == "bars" else self._quotes

        async def ask_for(batch: Sequence[str]) -> Answer:
            return await ask(self._builders(batch, call, now), self._requests(batch, http, now))

        answer = await fetch_in_groups(batches.values(), ask_for)
        return Answer(answer.events, failed | dict(answer.failed))

    def _builders(self, batch: Sequence[str], call: FetchCall, now: datetime) -> list[EventBuilder]:
        dataset = dataset_of(to_vendor(batch[0]), self._dataset)
        unit, feed = Unit(currency_of(dataset)), feed_of(dataset)
        return [EventBuilder(self.profile, call, symbol, now, unit, feed=feed) for symbol in batch]

    def _requests(self, batch: Sequence[str], http: Http, now: datetime) -> Requests:
        symbols = tuple(dict.fromkeys(map(to_vendor, batch)))
        dataset, kind = dataset_of(symbols[0], self._dataset), kind_of(symbols[0])
        return Requests(http, self._headers, self._secrets, now, dataset, kind, symbols)

    async def _chain(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        dataset = self._dataset if self._dataset.startswith("OPRA.") else OPTIONS
        parents = (parent_of(builder.symbol),)
        requests = Requests(http, self._headers, self._secrets, builder.now, dataset, "parent", parents)
        builder = replace(builder, unit=Unit(currency_of(dataset)), feed=feed_of(dataset))
        return builder.chain(await contracts_of(requests))

    async def _bars(self, batch: Sequence[EventBuilder], requests: Requests) -> Answer:
        call, timeframe = batch[0].call, batch[0].call.timeframe or "1d"
        minute = requests.now.replace(second=0, microsecond=0)
        whole = TimeRange(minute - timedelta(days=LATEST_DAYS[timeframe]), minute)
        if call.start is not None and call.end is not None:
            whole = TimeRange(day_start(call.start), min(day_start(call.end), minute))
        days = RECORDS // (BARS_A_DAY[timeframe] * len(requests.symbols))
        found = await requests.all(f"ohlcv-{timeframe}", whole.cut(days))
        closed = await _closed(found, requests, whole)
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for builder in batch:
            spelling = to_vendor(builder.symbol)
            if spelling in found.known or spelling in closed:
                events += replace(builder, complete_until=found.until).bars(consolidated(found.records[spelling]))
            else:
                failed[builder.symbol] = _unknown(builder.symbol, requests.dataset)
        return Answer(events, failed)

    async def _quotes(self, batch: Sequence[EventBuilder], requests: Requests) -> Answer:
        """Bid and ask of the last hour there is; of what had neither, as after a close, the last trade of the days before."""
        now, schema = requests.now, "cbbo-1m" if requests.dataset.startswith("OPRA.") else "bbo-1m"
        books = await requests.all(schema, [TimeRange(now - BOOK_AGE, now)], slide=True)
        quotes = {symbol: top_of_book(records) for symbol, records in books.records.items()}
        silent = [builder for builder in batch if quotes[to_vendor(builder.symbol)] is None]
        heard = [(builder, quote) for builder in batch if (quote := quotes[to_vendor(builder.symbol)])]
        events: list[PriceEvent] = [builder.quote(quote, quote.at) for builder, quote in heard]
        if not silent:
            return Answer(events)
        try:
            traded = await self._last_trades(silent, requests, books.until or now)
        except ProviderError as error:
            if not events:
                raise
            return Answer(events, {builder.symbol: error for builder in silent})
        return Answer([*events, *traded.events], traded.failed)

    async def _last_trades(self, batch: Sequence[EventBuilder], requests: Requests, until: datetime) -> Answer:
        requests = replace(requests, symbols=tuple(dict.fromkeys(to_vendor(builder.symbol) for builder in batch)))
        found = await requests.all("ohlcv-1h", [TimeRange(until - TRADE_AGE, until)])
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for builder in batch:
            spelling = to_vendor(builder.symbol)
            if quote := last_trade(found.records[spelling], LENGTHS["1h"], until):
                events.append(builder.quote(quote, quote.at))
            elif spelling in found.known:
                failed[builder.symbol] = ProviderError(Verdict.EMPTY, f"databento: no trade of {builder.symbol} in the last days")
            else:
                failed[builder.symbol] = _unknown(builder.symbol, requests.dataset)
        return Answer(events, failed)


async def _closed(found: FetchedRecords, requests: Requests, whole: TimeRange) -> set[str]:
    """Fetch the symbols that mean nothing only because no day of the range had a session, so that nothing was listed either."""
    unknown = [symbol for symbol in requests.symbols if symbol not in found.known]
    if not unknown or whole.end - whole.start >= LONGEST_CLOSURE:
        return set()
    return await requests.known_symbols(unknown, whole)


def _unknown(symbol: str, dataset: str) -> ProviderError:
    return ProviderError(Verdict.NOT_FOUND, f"databento: {dataset} knows no {symbol}; check it and the setting dataset")


PROVIDER = Databento
