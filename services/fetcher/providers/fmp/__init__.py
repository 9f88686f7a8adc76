"""Financial Modeling Prep (FMP): bars, quotes, splits and dividends of shares, funds, indices, currency and crypto pairs.

Source: https://site.financialmodelingprep.com/developer/docs/stable
Limits: a free key has 250 calls a day and only well-known US symbols; a paid one some hundred a minute, and a cap on the bytes
of 30 days. Long ranges are asked in windows, from the newest back: a month of intraday bars at most, 5000 rows of daily ones.
Units: bars are adjusted for splits, with the option `adjusted = 1` daily ones have `adjusted_close` for dividends too, at a
second call. No currency is named: London, Johannesburg and Tel Aviv, which may quote in pence and the like, are looked up once
a symbol. A daily bar has a date only; intraday times are New York's wall clock for every market, crypto and currencies included.
Quirks: refusals are an object or a sentence, with status 200 too. `[]` stands for an unknown symbol and for an empty range.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from contracts.price_events import PriceEvent, PriceQuote
from services.fetcher.adapter.events import Action, EventBuilder
from services.fetcher.adapter.fields import LENGTHS, PLAIN, Unit, dashed_class, day_of, day_start, pair_of, unit_of
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
from services.fetcher.providers.fmp.answers import (
    NEW_YORK,
    Record,
    parse_adjusted_closes,
    parse_dividends,
    parse_minutes,
    parse_records,
    parse_sessions,
    parse_splits,
    parse_spot,
)

INTERVALS: dict[Timeframe, str] = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1hour"}
# Calendar days of one request, within what the vendor gives at once.
WINDOWS: dict[Timeframe, int] = {"1m": 3, "5m": 7, "15m": 28, "30m": 28, "1h": 28, "1d": 5000}
LATEST_DAYS = 740  # hold 500 sessions
LONGEST_HOLIDAY = timedelta(days=10)  # an answer that begins later in its window was cut short
EXCHANGES = "FLTV"  # Frankfurt, London, Tokyo, TSX Venture: their suffixes look like a share's class
MAYBE_MINOR = (".L", ".JO", ".TA")
MOST_ACTIONS = "1000"


class Fmp:
    """Financial Modeling Prep with one key."""

    profile = Profile(
        name="fmp",
        base_url="https://financialmodelingprep.com",
        offers={"bars": (*INTERVALS, "1d"), "quote": (), "actions": ()},
        basis="split",
        feed="consolidated",
        delay_s=900.0,
        symbols_per_call={"quote": 100},
        limits=Limits(per_day=250, day_zone=NEW_YORK),
    )

    def __init__(self, access: Credentials) -> None:
        self._key = access.api_key
        self._adjusted = bool(access.options.get("adjusted"))
        self._has_batches = True
        self._units: dict[str, Unit] = {}

    def to_vendor(self, symbol: str) -> str:
        """`BRK-B` for BRK.B, `EURUSD` for EUR/USD."""
        pair = pair_of(symbol)
        return f"{pair.base}{pair.quote}" if pair else dashed_class(symbol, EXCHANGES)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Quotes share a request where the plan has it; bars take one a symbol and window, actions two."""
        refuse_unoffered(self.profile, call)
        if call.dataset == "quote":
            return await self._quotes(call, http, now)
        ask = self._actions if call.dataset == "actions" else self._bars
        return await fetch_each(call.symbols, lambda symbol: ask(EventBuilder(self.profile, call, symbol, now), http))

    async def _bars(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        asked = replace(asked, zone="UTC" if pair_of(asked.symbol) else NEW_YORK)
        timeframe = asked.call.timeframe or "1d"
        if timeframe in LENGTHS:
            rows = parse_minutes(await self._history(asked, http, f"historical-chart/{INTERVALS[timeframe]}"))
        else:
            rows = parse_sessions(await self._history(asked, http, "historical-price-eod/full"), asked.zone)
            if self._adjusted and rows:
                adjusted = await self._history(asked, http, "historical-price-eod/dividend-adjusted")
                closes = parse_adjusted_closes(adjusted, asked.zone)
                rows = [row._replace(adjusted_close=closes.get(row.at)) for row in rows]
        if not rows and asked.call.start is None:
            raise ProviderError(Verdict.NOT_FOUND, f"fmp: has no bars of {asked.symbol}")
        return replace(asked, unit=await self._unit(asked, http)).bars(rows)

    async def _history(self, asked: EventBuilder, http: Http, path: str) -> list[Record]:
        """The rows of the asked range, window by window from the newest back."""
        timeframe = asked.call.timeframe or "1d"
        if asked.call.start is None or asked.call.end is None:
            # What the vendor takes for the latest minutes is their last sessions, whatever the day of the week.
            recent = {} if timeframe in LENGTHS else {"from": str(asked.now.date() - timedelta(days=LATEST_DAYS))}
            return await self._of(asked, http, path, recent)
        first, last = _wall_clock_days(asked.call.start, asked.call.end, timeframe, asked.now)
        records: list[Record] = []
        while last >= first:
            low = max(first, last - timedelta(days=WINDOWS[timeframe] - 1))
            found = await self._of(asked, http, path, {"from": str(low), "to": str(last)})
            oldest = min((day for record in found if (day := day_of(record.get("date")))), default=low)
            was_cut = low + LONGEST_HOLIDAY < oldest < last
            # The day at which an answer was cut may lack its morning, so it is asked for again.
            records += [record for record in found if not was_cut or day_of(record.get("date")) != oldest]
            last = oldest if was_cut else low - timedelta(days=1)
        return records

    async def _actions(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if pair_of(asked.symbol):
            raise ProviderError(Verdict.BAD_REQUEST, f"fmp has no actions of the pair {asked.symbol}")
        actions: list[Action] = []
        actions += parse_splits(await self._of(asked, http, "splits", {"limit": MOST_ACTIONS}))
        actions += parse_dividends(await self._of(asked, http, "dividends", {"limit": MOST_ACTIONS}))
        # In what unit London's dividends come is not said, so only those of the US have a currency.
        return [replace(asked, unit=self._plain_unit(asked.symbol)).actions(actions)]

    async def _quotes(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        def asked(symbol: str) -> EventBuilder:
            return EventBuilder(self.profile, call, symbol, now)

        async def alone(symbol: str) -> Sequence[PriceEvent]:
            return [await self._quote(asked(symbol), http, await self._of(asked(symbol), http, "quote"))]

        if len(call.symbols) == 1 or not self._has_batches:
            return await fetch_each(call.symbols, alone)
        try:
            records = await self._records(http, "batch-quote", {"symbols": ",".join(map(self.to_vendor, call.symbols))}, now)
        except ProviderError as error:
            if error.verdict is not Verdict.PLAN_RESTRICTED:
                raise
            # The plan lacks batches, or one of the symbols, and then refuses them all: alone, each has its own answer.
            self._has_batches = "this endpoint" not in error.message.lower()
            return await fetch_each(call.symbols, alone)

        async def together(symbol: str) -> Sequence[PriceEvent]:
            return [await self._quote(asked(symbol), http, self._own(records, symbol))]

        return await fetch_each(call.symbols, together)

    async def _quote(self, asked: EventBuilder, http: Http, records: Sequence[Record]) -> PriceQuote:
        spot = parse_spot(records[0]) if records else None
        if spot is None:
            raise ProviderError(Verdict.NOT_FOUND, f"fmp: has no quote of {asked.symbol}")
        return replace(asked, unit=await self._unit(asked, http)).quote(spot, spot.at)

    async def _unit(self, asked: EventBuilder, http: Http) -> Unit:
        ticker = self.to_vendor(asked.symbol)
        if not ticker.upper().endswith(MAYBE_MINOR):
            return self._plain_unit(asked.symbol)
        if ticker not in self._units:
            profiles = await self._of(asked, http, "profile")
            self._units[ticker] = unit_of(str(profiles[0].get("currency") or "")) if profiles else PLAIN
        return self._units[ticker]

    def _plain_unit(self, symbol: str) -> Unit:
        """A pair's quote currency; dollars of what is listed in the US: neither an index nor with an exchange's suffix."""
        if pair := pair_of(symbol):
            return Unit(pair.quote)
        return PLAIN if symbol.startswith("^") or "." in self.to_vendor(symbol) else Unit("USD")

    async def _of(self, asked: EventBuilder, http: Http, path: str, params: dict[str, str] | None = None) -> list[Record]:
        """The rows about one symbol."""
        ticker = self.to_vendor(asked.symbol)
        return self._own(await self._records(http, path, {"symbol": ticker} | (params or {}), asked.now), asked.symbol)

    def _own(self, records: Sequence[Record], symbol: str) -> list[Record]:
        ticker = self.to_vendor(symbol).upper()
        return [record for record in records if str(record.get("symbol") or ticker).upper() == ticker]

    async def _records(self, http: Http, path: str, params: dict[str, str], now: datetime) -> list[Record]:
        return parse_records(await http.get(f"/stable/{path}", params, {"apikey": self._key}), now, self._key)


def _wall_clock_days(start: date, end: date, timeframe: Timeframe, now: datetime) -> tuple[date, date]:
    """The first and the last of the vendor's days that hold a range of UTC days; tomorrow is the last that can have bars."""
    last = min(end - timedelta(days=1), now.date() + timedelta(days=1))
    if timeframe in LENGTHS:
        start = day_start(start).astimezone(ZoneInfo(NEW_YORK)).date()
    return start, last


PROVIDER = Fmp
