"""Twelve Data: bars and quotes of shares, currencies and crypto, several symbols a request; splits and dividends on its paid plans.

Source: https://twelvedata.com/docs
Limits: a free key has 8 credits a minute and 800 a day; each symbol of a request costs one. At most four symbols share a
request, half of what a free key's minute pays for. Splits and dividends cost 20 each and want a plan (Grow or higher): count them
with the option `actions_credits = 20`. At most 5000 bars an answer, the newest; longer ranges are asked on, page by page.
Units: prices are adjusted for splits, dividends are as paid; pence and the like are divided by 100. Times are naive and the
exchange's own, those of pairs UTC. A daily or longer bar is dated by its session, its week's Monday or its month's first day.
Quirks: numbers are texts; an error has its code in the body, whatever the status, and can stand in the place of one symbol among
others; a symbol outside the plan is "not found".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import LATEST_BARS, Action, Bar, EventBuilder
from services.fetcher.adapter.fields import LENGTHS, pair_of, period_start
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
from services.fetcher.providers.twelvedata.answers import (
    Record,
    by_symbol,
    error_in,
    meta_of,
    parse_actions,
    parse_document,
    parse_rows,
    parse_spot,
    unit_in,
    values_in,
    zone_in,
)

INTERVALS: dict[Timeframe, str] = {
    "1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "1d": "1day", "1wk": "1week", "1mo": "1month"
}  # fmt: skip
NEW_YORK = "America/New_York"
MOST_ROWS = 5000
MOST_PAGES = 500
# A request takes its credits one by one: a whole minute's would hardly ever be free at once.
SYMBOLS = 4
FOREIGN_DELAY = timedelta(minutes=30)
# What is said of one symbol, when it is said of a request as a whole, need not be true of the others.
OF_ONE_SYMBOL = frozenset({Verdict.NOT_FOUND, Verdict.PLAN_RESTRICTED, Verdict.EMPTY})

Parts = dict[str, Record | ProviderError]


@dataclass
class _Series:
    """The bars of one symbol as they come in, page by page. `oldest`: the earliest time so far as it was written."""

    asked: EventBuilder
    rows: list[Bar] = field(default_factory=list)
    oldest: str = ""

    def take(self, record: Record) -> bool:
        """Take a page in; whether there can be another one before it."""
        timeframe = self.asked.call.timeframe or "1d"
        values = values_in(record)
        if not values:
            return False
        zone = zone_in(record, self.asked.symbol, timeframe)
        until = self.asked.now - FOREIGN_DELAY if zone not in ("UTC", NEW_YORK) else None
        unit = unit_in(meta_of(record), self.asked.symbol)
        self.asked = replace(self.asked, unit=unit, zone=zone, complete_until=until)
        self.rows += parse_rows(values, timeframe, zone)
        before, self.oldest = self.oldest, min(str(row.get("datetime")) for row in values)
        return len(values) >= MOST_ROWS and (not before or self.oldest < before)


class TwelveData:
    """Twelve Data with one key."""

    profile = Profile(
        name="twelvedata",
        base_url="https://api.twelvedata.com",
        offers={"bars": TIMEFRAMES, "quote": (), "actions": ()},
        basis="split",
        feed="consolidated",
        symbols_per_call={"bars": SYMBOLS, "quote": SYMBOLS},
        every_symbol_counts=True,
        limits=Limits(per_minute=8, per_day=800),
    )

    def __init__(self, access: Credentials) -> None:
        self._key = access.api_key
        self._headers = {"Authorization": f"apikey {access.api_key}"}
        self._actions_credits = int(access.options.get("actions_credits") or 1)

    def to_vendor(self, symbol: str) -> str:
        """`EUR/USD` and `BTC/USD` for pairs however they are spelled; BRK.B is spelled as here."""
        pair = pair_of(symbol)
        return f"{pair.base}/{pair.quote}" if pair and ":" not in symbol else symbol

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. The symbols share a request; further pages, splits and dividends take one a symbol."""
        refuse_unoffered(self.profile, call)
        asked = [EventBuilder(self.profile, call, symbol, now) for symbol in call.symbols]
        if call.dataset == "bars":
            return await self._bars(asked, http)
        if call.dataset == "quote":
            return await self._quotes(asked, http)
        return await fetch_each(call.symbols, lambda symbol: self._actions(EventBuilder(self.profile, call, symbol, now), http))

    async def _bars(self, asked: Sequence[EventBuilder], http: Http) -> Answer:
        params = _window(asked[0].call)
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        parts = await self._parts(http, "/time_series", params, asked)
        for each in asked:
            try:
                if (part := parts.get(each.symbol)) is not None:
                    events += await self._series(each, part, params, http)
            except ProviderError as error:
                failed[each.symbol] = error
        return Answer(events, failed)

    async def _series(
        self, asked: EventBuilder, part: Record | ProviderError, params: Mapping[str, str], http: Http
    ) -> list[PriceEvent]:
        """The bars of one symbol, asked on for what lies before the first page where that was full."""
        series = _Series(asked)
        for _ in range(MOST_PAGES):
            if isinstance(part, ProviderError):
                if part.verdict is not Verdict.EMPTY:
                    raise part
                break
            if not series.take(part) or asked.call.start is None:
                break
            parts = await self._parts(http, "/time_series", {**params, "end_date": series.oldest}, [asked])
            part = parts.get(asked.symbol, {})
        else:
            problem = f"twelvedata: {asked.symbol}: so many bars take too many calls; ask for a shorter range"
            raise ProviderError(Verdict.BAD_REQUEST, problem)
        return list(series.asked.bars(series.rows))

    async def _quotes(self, asked: Sequence[EventBuilder], http: Http) -> Answer:
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for symbol, part in (await self._parts(http, "/quote", {}, asked)).items():
            try:
                events.append(_quote(next(each for each in asked if each.symbol == symbol), part))
            except ProviderError as error:
                failed[symbol] = error
        return Answer(events, failed)

    async def _parts(self, http: Http, path: str, params: Mapping[str, str], asked: Sequence[EventBuilder]) -> Parts:
        """What is said of each symbol, in one request. A symbol that is left out of the answer is not in it.

        Raises:
            ProviderError: the request as a whole failed.
        """
        vendors = {each.symbol: self.to_vendor(each.symbol) for each in asked}
        names = ",".join(dict.fromkeys(vendors.values()))
        reply = await http.get(path, {"symbol": names, **params}, self._headers, cost=names.count(",") + 1)
        try:
            document = parse_document(reply, asked[0].now, self._key)
        except ProviderError as error:
            if error.verdict not in OF_ONE_SYMBOL:
                raise
            return {asked[0].symbol: error} if len(asked) == 1 else await self._one_by_one(http, path, params, asked)
        found = by_symbol(document, list(vendors.values()))
        parts = {symbol: found[vendor] for symbol, vendor in vendors.items() if vendor in found}
        return {symbol: error_in(part, reply, asked[0].now, self._key) or part for symbol, part in parts.items()}

    async def _one_by_one(self, http: Http, path: str, params: Mapping[str, str], asked: Iterable[EventBuilder]) -> Parts:
        parts: Parts = {}
        stop: ProviderError | None = None
        for each in asked:
            try:
                parts |= {each.symbol: stop} if stop else await self._parts(http, path, params, [each])
            except ProviderError as error:
                parts[each.symbol] = stop = error
        return parts

    async def _actions(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if pair_of(asked.symbol.partition(":")[0]):
            raise ProviderError(Verdict.BAD_REQUEST, f"twelvedata has no actions of the pair {asked.symbol}")
        vendor = self.to_vendor(asked.symbol)
        actions: list[Action] = []
        missing: list[ProviderError] = []
        # The whole history costs as much as its last entry, which is what would come without a range.
        for path, more in (("/splits", {}), ("/dividends", {"adjust": "false"})):
            try:
                part = await self._history(http, path, {"symbol": vendor, "range": "full", **more}, asked.now)
                actions += parse_actions(part)
                asked = replace(asked, unit=unit_in(meta_of(part), asked.symbol))
            except ProviderError as error:
                # Who never split, or never paid, may look unknown: known to one is known.
                if error.verdict not in (Verdict.NOT_FOUND, Verdict.EMPTY):
                    raise
                missing.append(error)
        if len(missing) == 2:
            raise missing[0]
        return [asked.actions(actions)]

    async def _history(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> Record:
        reply = await http.get(path, params, self._headers, cost=self._actions_credits)
        document = parse_document(reply, now, self._key)
        part = by_symbol(document, [params["symbol"]])[params["symbol"]]
        if error := error_in(part, reply, now, self._key):
            raise error
        return part


def _window(call: FetchCall) -> dict[str, str]:
    """The parameters of a series. The end is the vendor's own, which days exclude and times include."""
    timeframe = call.timeframe or "1d"
    params = {"interval": INTERVALS[timeframe], "adjust": "splits", "outputsize": str(LATEST_BARS)}
    if call.start is None or call.end is None:
        return params
    first, last = str(period_start(call.start, timeframe)), str(call.end)
    if timeframe in LENGTHS:
        # Days are UTC's, the times asked for each exchange's own: from the noon before, in the west, to the afternoon in the east.
        first, last = f"{call.start - timedelta(days=1)} 12:00:00", f"{call.end} 14:00:00"
    return params | {"outputsize": str(MOST_ROWS), "start_date": first, "end_date": last}


def _quote(asked: EventBuilder, part: Record | ProviderError) -> PriceEvent:
    if isinstance(part, ProviderError):
        raise part
    spot = parse_spot(part)
    if spot.price is None:
        raise ProviderError(Verdict.EMPTY, f"twelvedata: has no price of {asked.symbol}")
    # The opening of its bar does not say when a quote was true, only its last minute does.
    return replace(asked, unit=unit_in(part, asked.symbol)).quote(spot, spot.at if part.get("last_quote_at") else None)


PROVIDER = TwelveData
