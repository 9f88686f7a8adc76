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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import LATEST_BARS, Action, Bar, EventBuilder, Quote
from services.fetcher.adapter.fields import (
    LENGTHS,
    NEW_YORK,
    Unit,
    day_of,
    day_start,
    from_epoch,
    instant_of,
    number,
    pair_of,
    period_start,
    price,
    unit_of,
)
from services.fetcher.adapter.responses import (
    check_zone,
    decode_json,
    decode_text,
    error_for_status,
    fetch_each,
    quota_window_end,
    retry_after,
    sanitize,
)
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

INTERVALS: dict[Timeframe, str] = {
    "1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "1d": "1day", "1wk": "1week", "1mo": "1month"
}  # fmt: skip
MAX_ROWS = 5000
MAX_PAGES = 500
# A request takes its credits one by one: a whole minute's would hardly ever be free at once.
SYMBOLS = 4
FOREIGN_DELAY = timedelta(minutes=30)
# Verdicts on one symbol: as the error of a whole request they need not be true of its other symbols.
OF_ONE_SYMBOL = frozenset({Verdict.NOT_FOUND, Verdict.PLAN_RESTRICTED, Verdict.EMPTY})
RESTRICTED = (
    "available starting",
    "available exclusively",
    "available on the",
    "upgrad",
    "higher tier",
    "with your plan",
    "your plan",
)
UNKNOWN = ("not found", "missing or invalid", "invalid **symbol", "invalid symbol")
VERDICTS = {
    400: Verdict.BAD_REQUEST,
    401: Verdict.UNAUTHORIZED,
    403: Verdict.PLAN_RESTRICTED,
    404: Verdict.NOT_FOUND,
    414: Verdict.BAD_REQUEST,
    429: Verdict.RATE_LIMITED,
}

Record = Mapping[str, object]
Parts = dict[str, Record | ProviderError]


@dataclass
class _Series:
    """The bars of one symbol as they come in, page by page. `oldest`: the earliest time so far as it was written."""

    builder: EventBuilder
    rows: list[Bar] = field(default_factory=list)
    oldest: str = ""

    def take(self, record: Record) -> bool:
        """Take a page in; whether there can be another one before it."""
        timeframe = self.builder.call.timeframe or "1d"
        values = values_in(record)
        if not values:
            return False
        zone = zone_in(record, self.builder.symbol, timeframe)
        until = self.builder.now - FOREIGN_DELAY if zone not in ("UTC", NEW_YORK) else None
        unit = unit_in(meta_of(record), self.builder.symbol)
        self.builder = replace(self.builder, unit=unit, zone=zone, complete_until=until)
        self.rows += parse_rows(values, timeframe, zone)
        before, self.oldest = self.oldest, min(str(row.get("datetime")) for row in values)
        return len(values) >= MAX_ROWS and (not before or self.oldest < before)


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

    def __init__(self, credentials: Credentials) -> None:
        self._key = credentials.api_key
        self._headers = {"Authorization": f"apikey {credentials.api_key}"}
        self._actions_credits = int(credentials.options.get("actions_credits") or 1)

    def to_vendor(self, symbol: str) -> str:
        """`EUR/USD` and `BTC/USD` for pairs however they are spelled; BRK.B is spelled as here."""
        pair = pair_of(symbol)
        return f"{pair.base}/{pair.quote}" if pair and ":" not in symbol else symbol

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. The symbols share a request; further pages, splits and dividends take one a symbol."""
        refuse_unoffered(self.profile, call)
        builder = [EventBuilder(self.profile, call, symbol, now) for symbol in call.symbols]
        if call.dataset == "bars":
            return await self._bars(builder, http)
        if call.dataset == "quote":
            return await self._quotes(builder, http)
        return await fetch_each(call.symbols, lambda symbol: self._actions(EventBuilder(self.profile, call, symbol, now), http))

    async def _bars(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        params = _window(builders[0].call)
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        parts = await self._parts(http, "/time_series", params, builders)
        for each in builders:
            try:
                if (part := parts.get(each.symbol)) is not None:
                    events += await self._series(each, part, params, http)
            except ProviderError as error:
                failed[each.symbol] = error
        return Answer(events, failed)

    async def _series(
        self, builder: EventBuilder, part: Record | ProviderError, params: Mapping[str, str], http: Http
    ) -> list[PriceEvent]:
        """Fetch the bars of one symbol, continued for what lies before the first page where that was full."""
        series = _Series(builder)
        for _ in range(MAX_PAGES):
            if isinstance(part, ProviderError):
                if part.verdict is not Verdict.EMPTY:
                    raise part
                break
            if not series.take(part) or builder.call.start is None:
                break
            parts = await self._parts(http, "/time_series", {**params, "end_date": series.oldest}, [builder])
            part = parts.get(builder.symbol, {})
        else:
            problem = f"twelvedata: {builder.symbol}: so many bars take too many calls; ask for a shorter range"
            raise ProviderError(Verdict.BAD_REQUEST, problem)
        return list(series.builder.bars(series.rows))

    async def _quotes(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        for symbol, part in (await self._parts(http, "/quote", {}, builders)).items():
            try:
                events.append(_quote(next(each for each in builders if each.symbol == symbol), part))
            except ProviderError as error:
                failed[symbol] = error
        return Answer(events, failed)

    async def _parts(self, http: Http, path: str, params: Mapping[str, str], builders: Sequence[EventBuilder]) -> Parts:
        """Fetch the part of each symbol in one request. A symbol that the vendor left out is not in it.

        Raises:
            ProviderError: the request as a whole failed.
        """
        vendors = {each.symbol: self.to_vendor(each.symbol) for each in builders}
        names = ",".join(dict.fromkeys(vendors.values()))
        reply = await http.get(path, {"symbol": names, **params}, self._headers, cost=names.count(",") + 1)
        try:
            document = parse_document(reply, builders[0].now, self._key)
        except ProviderError as error:
            if error.verdict not in OF_ONE_SYMBOL:
                raise
            return {builders[0].symbol: error} if len(builders) == 1 else await self._one_by_one(http, path, params, builders)
        found = by_symbol(document, list(vendors.values()))
        parts = {symbol: found[vendor] for symbol, vendor in vendors.items() if vendor in found}
        return {symbol: error_in(part, reply, builders[0].now, self._key) or part for symbol, part in parts.items()}

    async def _one_by_one(self, http: Http, path: str, params: Mapping[str, str], builders: Iterable[EventBuilder]) -> Parts:
        parts: Parts = {}
        stop: ProviderError | None = None
        for each in builders:
            try:
                parts |= {each.symbol: stop} if stop else await self._parts(http, path, params, [each])
            except ProviderError as error:
                parts[each.symbol] = stop = error
        return parts

    async def _actions(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if pair_of(builder.symbol.partition(":")[0]):
            raise ProviderError(Verdict.BAD_REQUEST, f"twelvedata has no actions of the pair {builder.symbol}")
        vendor = self.to_vendor(builder.symbol)
        actions: list[Action] = []
        missing: list[ProviderError] = []
        # The whole history costs as much as its last entry, which is what would come without a range.
        for path, more in (("/splits", {}), ("/dividends", {"adjust": "false"})):
            try:
                part = await self._history(http, path, {"symbol": vendor, "range": "full", **more}, builder.now)
                actions += parse_actions(part)
                builder = replace(builder, unit=unit_in(meta_of(part), builder.symbol))
            except ProviderError as error:
                # Who never split, or never paid, may look unknown: known to one is known.
                if error.verdict not in (Verdict.NOT_FOUND, Verdict.EMPTY):
                    raise
                missing.append(error)
        if len(missing) == 2:
            raise missing[0]
        return [builder.actions(actions)]

    async def _history(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> Record:
        reply = await http.get(path, params, self._headers, cost=self._actions_credits)
        document = parse_document(reply, now, self._key)
        part = by_symbol(document, [params["symbol"]])[params["symbol"]]
        if error := error_in(part, reply, now, self._key):
            raise error
        return part


def _window(call: FetchCall) -> dict[str, str]:
    """Return the parameters of a series. The end is the vendor's own, which days exclude and times include."""
    timeframe = call.timeframe or "1d"
    params = {"interval": INTERVALS[timeframe], "adjust": "splits", "outputsize": str(LATEST_BARS)}
    if call.start is None or call.end is None:
        return params
    first, last = str(period_start(call.start, timeframe)), str(call.end)
    if timeframe in LENGTHS:
        # Days are UTC's, the times asked for each exchange's own: from the noon before, in the west, to the afternoon in the east.
        first, last = f"{call.start - timedelta(days=1)} 12:00:00", f"{call.end} 14:00:00"
    return params | {"outputsize": str(MAX_ROWS), "start_date": first, "end_date": last}


def _quote(builder: EventBuilder, part: Record | ProviderError) -> PriceEvent:
    if isinstance(part, ProviderError):
        raise part
    quote = parse_quote(part)
    if quote.price is None:
        raise ProviderError(Verdict.EMPTY, f"twelvedata: has no price of {builder.symbol}")
    # The opening of its bar does not say when a quote was true, only its last minute does.
    return replace(builder, unit=unit_in(part, builder.symbol)).quote(quote, quote.at if part.get("last_quote_at") else None)


def parse_document(reply: Reply, now: datetime, key: str) -> Record:
    """Parse the object of an answer, in which parts may still be errors.

    Raises:
        ProviderError: the answer as a whole is an error, or nothing that can be read.
    """
    document = decode_json(reply)
    if isinstance(document, dict):
        if error := error_in(document, reply, now, key):
            raise error
        if reply.status == 200:
            return document
        if reply.status in VERDICTS:
            raise _refused(reply.status, "", reply, now, key)
    if reply.status in (414, 429):
        words = decode_text(reply)
        raise _refused(reply.status, "" if words.startswith("<") else words, reply, now, key)
    raise error_for_status("twelvedata", reply, now)


def error_in(record: Record, reply: Reply, now: datetime, key: str) -> ProviderError | None:
    """Return the error that an object is, by its own code: the status it comes with has varied."""
    if "message" not in record or not (record.get("status") == "error" or "code" in record):
        return None
    return _refused(int(number(record.get("code")) or reply.status), str(record["message"]), reply, now, key)


def _refused(code: int, words: str, reply: Reply, now: datetime, key: str) -> ProviderError:
    verdict = _verdict(code, words.lower())
    if verdict is Verdict.RATE_LIMITED:
        window = "day" if "for the day" in words.lower() else "minute"
        return ProviderError(
            verdict, f"twelvedata: no more credits for the {window}", retry_after(reply, now) or _reset(window, now)
        )
    if verdict is Verdict.UNAUTHORIZED:
        return ProviderError(verdict, "twelvedata: the key is not accepted; set api_key")
    return ProviderError(
        verdict, f"twelvedata: {sanitize(words.replace('**', ''), key) or f'answered {code}'}", retry_after(reply, now)
    )


def _verdict(code: int, low: str) -> Verdict:
    # The refusal of an overspent key speaks of plans too, a symbol outside the plan comes as 404, an unknown one as 400.
    if code not in (401, 429):
        if "no data is available" in low:
            return Verdict.EMPTY
        if any(word in low for word in RESTRICTED):
            return Verdict.PLAN_RESTRICTED
        if ("symbol" in low or "figi" in low) and any(word in low for word in UNKNOWN):
            return Verdict.NOT_FOUND
    return VERDICTS.get(code) or (Verdict.SERVER_ERROR if code >= 500 else Verdict.MALFORMED)


def _reset(window: str, now: datetime) -> datetime | None:
    """Return when credits are given again: with the next minute of the clock, or day in UTC."""
    if window == "day":
        return quota_window_end(window, now, "UTC")
    return now.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)


def by_symbol(document: Record, symbols: Sequence[str]) -> dict[str, Record]:
    """Return the part of each symbol, in the vendor's spelling; a single one has the whole. Symbols left out are not in it."""
    parts: dict[str, Record] = {name.upper(): part for name, part in document.items() if isinstance(part, dict)}
    found = {symbol: parts[symbol.upper()] for symbol in symbols if symbol.upper() in parts}
    if found:
        return found
    own = str(document.get("symbol") or meta_of(document).get("symbol") or "").upper()
    return {symbol: document for symbol in symbols if len(symbols) == 1 or symbol.upper() == own}


def meta_of(record: Record) -> Record:
    """Parse the metadata of a series."""
    meta = record.get("meta")
    return meta if isinstance(meta, dict) else {}


def unit_in(record: Record, symbol: str) -> Unit:
    """Parse the unit of the prices; pairs name it not by code but in their symbol."""
    pair = pair_of(symbol.partition(":")[0])
    return unit_of(str(record.get("currency") or "") or (pair.quote if pair else None))


def zone_in(record: Record, symbol: str, timeframe: Timeframe) -> str:
    """Return the exchange's zone, in which a series' times are written; that of pairs is UTC.

    Raises:
        ProviderError: malformed, when it is not said and the times mean nothing without it, or it is no zone.
    """
    named = meta_of(record).get("exchange_timezone")
    if named:
        return check_zone("twelvedata", str(named))
    if timeframe in LENGTHS and pair_of(symbol.partition(":")[0]) is None and "currency_base" not in meta_of(record):
        raise ProviderError(Verdict.MALFORMED, f"twelvedata: does not say in which zone the times of {symbol} are")
    return "UTC"


def values_in(record: Record) -> list[Record]:
    """Return the rows of a series.

    Raises:
        ProviderError: malformed, when it is no series.
    """
    values = record.get("values")
    if values is None and record.get("status") == "ok":
        return []
    if isinstance(values, list) and all(isinstance(row, dict) for row in values):
        return values
    raise ProviderError(Verdict.MALFORMED, "twelvedata: answered something else instead of a series")


def parse_rows(values: Iterable[Record], timeframe: Timeframe, zone: str) -> Iterator[Bar]:
    """Parse bars; those of a day or longer are labelled by the written date."""
    for record in values:
        day = day_of(record.get("datetime"))
        at = instant_of(record.get("datetime"), zone) if timeframe in LENGTHS else day_start(day, zone) if day else None
        if at is not None:
            o, h, low, c = (number(record.get(name)) for name in ("open", "high", "low", "close"))
            yield Bar(at, o, h, low, c, number(record.get("volume")))


def parse_quote(record: Record) -> Quote:
    """Parse the quote: as of its last minute, else the bar it belongs to, else only the session's date.

    Raises:
        ProviderError: malformed, when it is no quote.
    """
    if "close" not in record:
        raise ProviderError(Verdict.MALFORMED, "twelvedata: answered something else instead of a quote")
    day = day_of(record.get("datetime"))
    return Quote(
        at=from_epoch(record.get("last_quote_at")) or from_epoch(record.get("timestamp")) or (day_start(day) if day else None),
        price=price(record["close"]),
        previous_close=price(record.get("previous_close")),
        volume=number(record.get("volume")),
    )


def parse_actions(document: Record) -> Iterator[Action]:
    """Parse the splits of one answer, the dividends of another.

    Raises:
        ProviderError: malformed, when it has neither.
    """
    rows = document.get("splits", document.get("dividends"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ProviderError(Verdict.MALFORMED, "twelvedata: answered something else instead of splits or dividends")
    for row in rows:
        day, amount = day_of(row.get("date")), number(row.get("amount"))
        new, old, ratio = (number(row.get(name)) for name in ("from_factor", "to_factor", "ratio"))
        # The vendor's names are the other way round: 4-for-1 is from 4 to 1. Its ratio is rounded, and of old to new.
        if day and ((new and old) or ratio):
            yield Action(day, "split", new / old if new and old else 1.0 / (ratio or 1.0))
        if amount and (ex_date := day_of(row.get("ex_date"))):
            yield Action(ex_date, "dividend", amount)


PROVIDER = TwelveData
