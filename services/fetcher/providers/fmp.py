"""Financial Modeling Prep (FMP): bars, quotes, splits and dividends of shares, funds, indices, currency and crypto pairs.

Source: https://site.financialmodelingprep.com/developer/docs/stable
Limits: a free key has 250 calls a day and only well-known US symbols; a paid one some hundred a minute, and a cap on the bytes
of 30 days. Long ranges are asked in windows, from the newest back: a month of intraday bars at most, 5000 rows of daily ones.
Units: bars are adjusted for splits, with the option `adjusted = 1` daily ones have `adjusted_close` for dividends too, at a
second call. No currency is named: London, Johannesburg and Tel Aviv, which may quote in pence and the like, are looked up once
a symbol. A daily bar has a date only; intraday times are New York's wall clock for every market, crypto and currencies included.
Quirks: refusals are an object or a sentence, with status 200 too. `[]` stands for an unknown symbol and for an empty range.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from contracts.price_events import PriceEvent, PriceQuote
from services.fetcher.adapter.events import Action, Bar, EventBuilder, Quote
from services.fetcher.adapter.fields import (
    LENGTHS,
    NEW_YORK,
    PLAIN,
    YEARS,
    Unit,
    dashed_class,
    day_of,
    day_start,
    from_epoch,
    number,
    pair_of,
    price,
    unit_of,
)
from services.fetcher.adapter.responses import decode_json, decode_text, error_for_status, fetch_each, retry_after, sanitize
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

INTERVALS: dict[Timeframe, str] = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1hour"}
# Calendar days of one request, within what the vendor gives at once.
WINDOWS: dict[Timeframe, int] = {"1m": 3, "5m": 7, "15m": 28, "30m": 28, "1h": 28, "1d": 5000}
LATEST_DAYS = 740  # hold 500 sessions
LONGEST_HOLIDAY = timedelta(days=10)  # an answer that begins later in its window was cut short
EXCHANGES = "FLTV"  # Frankfurt, London, Tokyo, TSX Venture: their suffixes look like a share's class
MAYBE_MINOR = (".L", ".JO", ".TA")
MAX_ACTIONS = "1000"
PLAN = ("premium", "special endpoint", "exclusive endpoint", "restricted endpoint", "legacy endpoint", "subscription", "upgrade")
FAULTS = ("invalid", "missing", "required", "parameter")
MILLISECONDS = 1e11  # seconds since 1970 are fewer for three thousand years to come
Record = Mapping[str, object]


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

    def __init__(self, credentials: Credentials) -> None:
        self._key = credentials.api_key
        self._adjusted = bool(credentials.options.get("adjusted"))
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

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        builder = replace(builder, zone="UTC" if pair_of(builder.symbol) else NEW_YORK)
        timeframe = builder.call.timeframe or "1d"
        if timeframe in LENGTHS:
            rows = parse_minutes(await self._history(builder, http, f"historical-chart/{INTERVALS[timeframe]}"))
        else:
            rows = parse_sessions(await self._history(builder, http, "historical-price-eod/full"), builder.zone)
            if self._adjusted and rows:
                adjusted = await self._history(builder, http, "historical-price-eod/dividend-adjusted")
                closes = parse_adjusted_closes(adjusted, builder.zone)
                rows = [row._replace(adjusted_close=closes.get(row.at)) for row in rows]
        if not rows and builder.call.start is None:
            raise ProviderError(Verdict.NOT_FOUND, f"fmp: has no bars of {builder.symbol}")
        return replace(builder, unit=await self._unit(builder, http)).bars(rows)

    async def _history(self, builder: EventBuilder, http: Http, path: str) -> list[Record]:
        """Fetch the rows of the asked range, window by window from the newest back."""
        timeframe = builder.call.timeframe or "1d"
        if builder.call.start is None or builder.call.end is None:
            # What the vendor takes for the latest minutes is their last sessions, whatever the day of the week.
            recent = {} if timeframe in LENGTHS else {"from": str(builder.now.date() - timedelta(days=LATEST_DAYS))}
            return await self._symbol_records(builder, http, path, recent)
        first, last = _wall_clock_days(builder.call.start, builder.call.end, timeframe, builder.now)
        records: list[Record] = []
        while last >= first:
            low = max(first, last - timedelta(days=WINDOWS[timeframe] - 1))
            found = await self._symbol_records(builder, http, path, {"from": str(low), "to": str(last)})
            oldest = min((day for record in found if (day := day_of(record.get("date")))), default=low)
            was_cut = low + LONGEST_HOLIDAY < oldest < last
            # The day at which an answer was cut may lack its morning, so it is asked for again.
            records += [record for record in found if not was_cut or day_of(record.get("date")) != oldest]
            last = oldest if was_cut else low - timedelta(days=1)
        return records

    async def _actions(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if pair_of(builder.symbol):
            raise ProviderError(Verdict.BAD_REQUEST, f"fmp has no actions of the pair {builder.symbol}")
        actions: list[Action] = []
        actions += parse_splits(await self._symbol_records(builder, http, "splits", {"limit": MAX_ACTIONS}))
        actions += parse_dividends(await self._symbol_records(builder, http, "dividends", {"limit": MAX_ACTIONS}))
        # In what unit London's dividends come is not said, so only those of the US have a currency.
        return [replace(builder, unit=self._plain_unit(builder.symbol)).actions(actions)]

    async def _quotes(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        def builder_of(symbol: str) -> EventBuilder:
            return EventBuilder(self.profile, call, symbol, now)

        async def alone(symbol: str) -> Sequence[PriceEvent]:
            return [await self._quote(builder_of(symbol), http, await self._symbol_records(builder_of(symbol), http, "quote"))]

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
            return [await self._quote(builder_of(symbol), http, self._records_of(records, symbol))]

        return await fetch_each(call.symbols, together)

    async def _quote(self, builder: EventBuilder, http: Http, records: Sequence[Record]) -> PriceQuote:
        quote = parse_quote(records[0]) if records else None
        if quote is None:
            raise ProviderError(Verdict.NOT_FOUND, f"fmp: has no quote of {builder.symbol}")
        return replace(builder, unit=await self._unit(builder, http)).quote(quote, quote.at)

    async def _unit(self, builder: EventBuilder, http: Http) -> Unit:
        ticker = self.to_vendor(builder.symbol)
        if not ticker.upper().endswith(MAYBE_MINOR):
            return self._plain_unit(builder.symbol)
        if ticker not in self._units:
            profiles = await self._symbol_records(builder, http, "profile")
            self._units[ticker] = unit_of(str(profiles[0].get("currency") or "")) if profiles else PLAIN
        return self._units[ticker]

    def _plain_unit(self, symbol: str) -> Unit:
        """Return a pair's quote currency; dollars of what is listed in the US: neither an index nor with an exchange's suffix."""
        if pair := pair_of(symbol):
            return Unit(pair.quote)
        return PLAIN if symbol.startswith("^") or "." in self.to_vendor(symbol) else Unit("USD")

    async def _symbol_records(
        self, builder: EventBuilder, http: Http, path: str, params: dict[str, str] | None = None
    ) -> list[Record]:
        """Fetch the rows about one symbol."""
        ticker = self.to_vendor(builder.symbol)
        return self._records_of(await self._records(http, path, {"symbol": ticker} | (params or {}), builder.now), builder.symbol)

    def _records_of(self, records: Sequence[Record], symbol: str) -> list[Record]:
        ticker = self.to_vendor(symbol).upper()
        return [record for record in records if str(record.get("symbol") or ticker).upper() == ticker]

    async def _records(self, http: Http, path: str, params: dict[str, str], now: datetime) -> list[Record]:
        return parse_records(await http.get(f"/stable/{path}", params, {"apikey": self._key}), now, self._key)


def _wall_clock_days(start: date, end: date, timeframe: Timeframe, now: datetime) -> tuple[date, date]:
    """Return the first and the last of the vendor's days that hold a range of UTC days; tomorrow is the last that can have bars."""
    last = min(end - timedelta(days=1), now.date() + timedelta(days=1))
    if timeframe in LENGTHS:
        start = day_start(start).astimezone(ZoneInfo(NEW_YORK)).date()
    return start, last


def parse_records(reply: Reply, now: datetime, key: str) -> list[Record]:
    """Parse the rows of an answer; none where the vendor has none. `key` is kept out of error messages.

    Raises:
        ProviderError: the answer is a refusal, or nothing that can be read.
    """
    document = decode_json(reply)
    if isinstance(document, list) and reply.status == 200:
        rows: list[Record] = [row for row in document if isinstance(row, dict)]
        if rows or all(row is None for row in document):
            if words := _sentence(rows[0]) if rows else "":
                raise _refused(words, reply, now, key)
            return rows
    words = decode_text(reply) if document is None else _sentence(document)
    if words and not words.startswith("<"):
        raise _refused(words, reply, now, key)
    raise error_for_status("fmp", reply, now)


def _sentence(document: object) -> str:
    if isinstance(document, dict):
        return str(next((document[name] for name in ("Error Message", "error", "message") if document.get(name)), ""))
    return document if isinstance(document, str) else ""


def _refused(words: str, reply: Reply, now: datetime, key: str) -> ProviderError:
    verdict = _verdict(words.lower(), reply.status)
    if verdict is None:
        return error_for_status("fmp", reply, now)
    message = f"fmp: {sanitize(words, key)}"
    if verdict is Verdict.RATE_LIMITED:
        # Day, minute and bytes are refused in much the same words, and none says when it is over.
        spent = "bytes of 30 days" if "bandwidth" in words.lower() else "calls"
        message = f"fmp: this key has no {spent} left for now"
    elif verdict is Verdict.UNAUTHORIZED:
        message = "fmp: the key is not accepted; set api_key"
    return ProviderError(verdict, message, retry_after(reply, now))


def _verdict(words: str, status: int) -> Verdict | None:
    """Map the vendor's words to a verdict, whatever the status, as an error may come with 200; None: the status decides."""
    rules = (
        (Verdict.RATE_LIMITED, status == 429 or "limit reach" in words or "too many requests" in words),
        (Verdict.UNAUTHORIZED, "invalid api key" in words),
        (Verdict.PLAN_RESTRICTED, status == 402 or any(word in words for word in PLAN)),
        (Verdict.UNAUTHORIZED, status == 401 or any(word in words for word in ("api key", "apikey", "suspend"))),
        (Verdict.PLAN_RESTRICTED, status == 403),
        (None, status >= 500),
        (Verdict.NOT_FOUND, "not found" in words),
        (Verdict.BAD_REQUEST, status in (400, 422) or any(word in words for word in FAULTS)),
        (Verdict.MALFORMED, status == 200),
    )
    return next((verdict for verdict, holds in rules if holds), None)


def parse_sessions(records: Iterable[Record], zone: str) -> list[Bar]:
    """Daily bars, each somewhere in the session of its date."""
    return [_row(record, day_start(day, zone)) for record in records if (day := day_of(record.get("date")))]


def parse_adjusted_closes(records: Iterable[Record], zone: str) -> dict[datetime, float | None]:
    """Parse the closes adjusted for dividends too, by the instant of `parse_sessions`."""
    return {day_start(day, zone): price(record.get("adjClose")) for record in records if (day := day_of(record.get("date")))}


def parse_minutes(records: Iterable[Record]) -> list[Bar]:
    """Parse intraday bars. Of two rows with the same wall-clock time, the later is of the hour after the clock went back."""
    times = [(time, record) for record in records if (time := _wall_clock(record.get("date")))]
    if times and times[0][0] > times[-1][0]:
        times.reverse()
    rows, seen = [], set[datetime]()
    for time, record in times:
        rows.append(_row(record, time.replace(tzinfo=ZoneInfo(NEW_YORK), fold=int(time in seen)).astimezone(UTC)))
        seen.add(time)
    return rows


def _wall_clock(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text)).replace(tzinfo=None)
    except ValueError:
        return None
    return found if found.year in YEARS else None


def _row(record: Record, at: datetime) -> Bar:
    o, h, low, c = (price(record.get(name)) for name in ("open", "high", "low", "close"))
    return Bar(at, o, h, low, c, number(record.get("volume")))


def parse_quote(record: Record) -> Quote | None:
    """Parse the quote; it has neither bid nor ask. None without a price."""
    last = price(record.get("price"))
    if last is None:
        return None
    seconds = number(record.get("timestamp")) or 0.0
    return Quote(
        at=from_epoch(seconds / 1000 if seconds > MILLISECONDS else seconds),
        price=last,
        previous_close=price(record.get("previousClose")),
        volume=number(record.get("volume")),
    )


def parse_splits(records: Iterable[Record]) -> Iterator[Action]:
    """New shares per old: 4-for-1 is 4, 1-for-80 is 0.0125; one for one is none."""
    for record in records:
        new, old = number(record.get("numerator")), number(record.get("denominator"))
        if new and old and new != old and (day := day_of(record.get("date"))):
            yield Action(day, "split", new / old)


def parse_dividends(records: Iterable[Record]) -> Iterator[Action]:
    """Parse the amount as it was declared; where that is unknown, the one adjusted for later splits."""
    for record in records:
        amount = price(record.get("dividend")) or price(record.get("adjDividend"))
        if amount and (day := day_of(record.get("date"))):
            yield Action(day, "dividend", amount)


PROVIDER = Fmp
