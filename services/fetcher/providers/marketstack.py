"""Marketstack: end-of-day bars, quotes, splits and dividends of shares and indices on many exchanges.

Source: https://marketstack.com/documentation_v2
Limits: a free key has 100 requests a month and a year of history; five requests a second. Every symbol of a request counts as
one, again on each page of at most 1000 rows: so few symbols share a request, and only where their bars fit on one page.
Units: prices raw as traded, `adjusted_close` for splits and dividends where it is known, in `price_currency`, which older
answers lack. A bar is dated by its session, spelled as midnight UTC.
Quirks: no intraday bars are offered, as the rows of `/intraday` are none: their open, high, low and volume are of the day so
far, their `close` is of the day before. They serve as quotes, of IEX, for US shares and with a paid plan; all else is quoted at
its last session's close. The key is taken in the query only.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import LATEST_BARS, Action, Bar, EventBuilder, Quote
from services.fetcher.adapter.fields import (
    NEW_YORK,
    PLAIN,
    Unit,
    dashed_class,
    day_of,
    day_start,
    instant_of,
    number,
    pair_of,
    price,
    unit_of,
)
from services.fetcher.adapter.responses import decode_json, error_for_status, fetch_each, quota_window_end, retry_after, sanitize
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

SYMBOLS = 5  # as each is a request of the five a second
PAGE = 1000
MAX_PAGES = 500
VENDOR_AS_A_WHOLE = frozenset({Verdict.RATE_LIMITED, Verdict.UNAUTHORIZED, Verdict.SERVER_ERROR, Verdict.TIMEOUT})
US_EXCHANGES = frozenset({"XNAS", "XNYS", "XASE", "ARCX", "BATS", "IEXG", "OTCM", "OTCB", "OTCQ", "PINX", "PSGM"})
# Currencies come in lower case, of which the minor units are told apart here.
MINOR_CODES = {"GBX": "GBX", "ILA": "ILA", "ZAC": "ZAc"}
VERDICTS = {
    "unauthorized": Verdict.UNAUTHORIZED,
    "invalid_access_key": Verdict.UNAUTHORIZED,
    "missing_access_key": Verdict.UNAUTHORIZED,
    "inactive_user": Verdict.UNAUTHORIZED,
    "https_access_restricted": Verdict.PLAN_RESTRICTED,
    "function_access_restricted": Verdict.PLAN_RESTRICTED,
    "usage_limit_reached": Verdict.RATE_LIMITED,
    "too_many_requests": Verdict.RATE_LIMITED,
    "rate_limit_reached": Verdict.RATE_LIMITED,
    "404_not_found": Verdict.NOT_FOUND,
    "not_found": Verdict.NOT_FOUND,
    "not_found_error": Verdict.NOT_FOUND,
    "no_valid_symbols_provided": Verdict.NOT_FOUND,
    "data_not_available": Verdict.EMPTY,
    "invalid_api_function": Verdict.BAD_REQUEST,
    "validation_error": Verdict.BAD_REQUEST,
    "internal_error": Verdict.SERVER_ERROR,
}
BY_STATUS = {
    400: Verdict.BAD_REQUEST,
    401: Verdict.UNAUTHORIZED,
    403: Verdict.PLAN_RESTRICTED,
    404: Verdict.NOT_FOUND,
    406: Verdict.EMPTY,
    422: Verdict.BAD_REQUEST,
    429: Verdict.RATE_LIMITED,
}
Record = Mapping[str, object]


class Page(NamedTuple):
    """Rows `offset` to `offset + length` of `total`."""

    rows: Sequence[Record]
    offset: int
    length: int
    total: int


class Marketstack:
    """Marketstack with one key."""

    profile = Profile(
        name="marketstack",
        base_url="https://api.marketstack.com",
        offers={"bars": ("1d",), "quote": (), "actions": ()},
        basis="raw",
        feed="eod",
        symbols_per_call={"bars": SYMBOLS, "quote": SYMBOLS, "actions": SYMBOLS},
        every_symbol_counts=True,
        limits=Limits(per_second=5, per_month=100),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._key = credentials.api_key
        # Shorter intervals want a larger plan still.
        self._interval = str(credentials.options.get("interval") or "15min")
        self._has_intraday = True

    def to_vendor(self, symbol: str) -> str:
        """`GSPC.INDX` for ^GSPC; all else as it is, with the exchange's MIC where that is not of the US: `VOD.XLON`."""
        return f"{symbol[1:]}.INDX" if symbol.startswith("^") and symbol[1:] else symbol

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Symbols share requests as far as that costs no page more."""
        refuse_unoffered(self.profile, call)
        failed = {
            symbol: ProviderError(Verdict.BAD_REQUEST, f"marketstack has no pairs, such as {symbol}")
            for symbol in call.symbols
            if pair_of(symbol)
        }
        symbols = [symbol for symbol in call.symbols if symbol not in failed]
        ask = {"bars": self._bars, "quote": self._quotes, "actions": self._actions}[call.dataset]
        size = _symbols_a_request(call)
        groups = {",".join(symbols[i : i + size]): symbols[i : i + size] for i in range(0, len(symbols), size)}
        answers: list[Answer] = []

        async def ask_for(group: str) -> Sequence[PriceEvent]:
            answers.append(
                await ask([EventBuilder(self.profile, call, symbol, now, zone=NEW_YORK) for symbol in groups[group]], http)
            )
            return answers[-1].events

        whole = await fetch_each(groups, ask_for)
        for answer in answers:
            failed |= answer.failed
        for group, error in whole.failed.items():
            failed |= dict.fromkeys(groups[group], error)
        return Answer(whole.events, failed)

    async def _bars(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        start, end = builders[0].call.start, builders[0].call.end
        if start is None or end is None:
            rows = await self._rows(builders, http, "eod", {"limit": str(LATEST_BARS)}, pages=1)
        else:
            # Oldest first: a bar that comes in between two pages shifts none of the others.
            days = {"date_from": str(start), "date_to": str(end - timedelta(days=1)), "sort": "ASC"}
            rows = await self._rows(builders, http, "eod", days)
        events: list[PriceEvent] = []
        for each in builders:
            own = on_busiest_exchange(self._records_of(rows, each.symbol))
            if own or start is not None:  # who has not even a latest bar is unknown, hence left out
                events += replace(each, unit=unit_in(own)).bars(parse_rows(own))
        return Answer(events)

    async def _quotes(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        events = await self._live_quotes([each for each in builders if _may_be_of_iex(each.symbol)], http)
        quoted = {event.symbol for event in events}
        rest = [each for each in builders if each.symbol not in quoted]
        failed: dict[str, ProviderError] = {}
        try:
            rows = await self._rows(rest, http, "eod/latest", pages=1) if rest else []
        except ProviderError as error:
            if not events:
                raise
            failed = {each.symbol: error for each in rest}
            rows = []
        for each in rest:
            own = on_busiest_exchange(self._records_of(rows, each.symbol))
            if quote := parse_close(own):
                # The date of a session does not say when in the day its close was true.
                events.append(replace(each, unit=unit_in(own)).quote(quote))
        return Answer(events, failed)

    async def _live_quotes(self, builders: Sequence[EventBuilder], http: Http) -> list[PriceEvent]:
        """Fetch the quotes that IEX has; none where the plan excludes them."""
        if not builders or not self._has_intraday:
            return []
        try:
            rows = await self._rows(builders, http, "intraday/latest", {"interval": self._interval}, pages=1)
        except ProviderError as error:
            if error.verdict in VENDOR_AS_A_WHOLE:
                raise
            self._has_intraday = error.verdict is not Verdict.PLAN_RESTRICTED
            return []
        found = ((each, parse_live(self._records_of(rows, each.symbol))) for each in builders)
        return [replace(each, unit=Unit("USD"), feed="iex").quote(quote, quote.at) for each, quote in found if quote]

    async def _actions(self, builders: Sequence[EventBuilder], http: Http) -> Answer:
        call = builders[0].call
        days = {"date_from": str(call.start)} if call.start else {}
        days |= {"date_to": str(call.end - timedelta(days=1))} if call.end else {}
        actions: dict[str, list[Action]] = {each.symbol: [] for each in builders}
        unknown: list[ProviderError] = []
        for path, parse in (("splits", parse_splits), ("dividends", parse_dividends)):
            try:
                rows = await self._rows(builders, http, path, days | {"sort": "ASC"})
            except ProviderError as error:
                # Who never split, or never paid, may be unknown to that list alone.
                if error.verdict not in (Verdict.NOT_FOUND, Verdict.EMPTY):
                    raise
                unknown.append(error)
                continue
            for each in builders:
                actions[each.symbol] += parse(self._records_of(rows, each.symbol))
        if len(unknown) == 2:
            raise unknown[0]
        # No currency is named; a symbol without an exchange is of the US.
        units = {each.symbol: Unit("USD") if _may_be_of_iex(each.symbol) else PLAIN for each in builders}
        return Answer([replace(each, unit=units[each.symbol]).actions(actions[each.symbol]) for each in builders])

    def _records_of(self, rows: Iterable[Record], symbol: str) -> list[Record]:
        """Return the rows of one symbol, whichever way its share class is spelled."""
        wanted = _to_vendor(self.to_vendor(symbol))
        return [row for row in rows if _to_vendor(str(row.get("symbol"))) == wanted]

    async def _rows(
        self, builders: Sequence[EventBuilder], http: Http, path: str, params: dict[str, str] | None = None, pages: int = MAX_PAGES
    ) -> list[Record]:
        """Fetch the rows of at most so many pages."""
        spell = dashed_class if path.startswith("intraday") else str
        symbols = ",".join(spell(self.to_vendor(each.symbol)) for each in builders)
        query = {"access_key": self._key, "symbols": symbols, "limit": str(PAGE)} | (params or {})
        rows: list[Record] = []
        offset = 0
        for _ in range(pages):
            reply = await http.get(f"/v2/{path}", query | {"offset": str(offset)}, cost=len(builders))
            page = parse_page(reply, builders[0].now, self._key)
            if page.rows and page.offset < offset:
                raise ProviderError(Verdict.MALFORMED, f"marketstack: answered the rows from {page.offset} instead of {offset}")
            rows += page.rows
            offset = page.offset + page.length
            if not page.length or offset >= page.total:
                return rows
        if pages == MAX_PAGES:
            raise ProviderError(Verdict.MALFORMED, f"marketstack: has no end after {MAX_PAGES} pages; ask for a shorter range")
        return rows


def _symbols_a_request(call: FetchCall) -> int:
    if call.dataset != "bars":
        return SYMBOLS
    if call.start is None or call.end is None:
        return 1
    return max(1, min(SYMBOLS, PAGE // (call.end - call.start).days))


def _may_be_of_iex(symbol: str) -> bool:
    """True if it names no exchange: a share class has one letter, a MIC four."""
    return "." not in dashed_class(symbol) and not symbol.startswith("^")


def _to_vendor(symbol: str) -> str:
    return symbol.upper().replace("-", ".")


def parse_page(reply: Reply, now: datetime, key: str) -> Page:
    """Parse one page. `key` is kept out of error messages.

    Raises:
        ProviderError: the answer is an error, or nothing that can be read.
    """
    document = decode_json(reply)
    if isinstance(document, dict):
        if error := document.get("error"):
            raise _refused(error if isinstance(error, dict) else {"message": error}, reply, now, key)
        if reply.status == 404:
            words = document.get("detail") or document.get("message") or "has nothing there"
            raise ProviderError(Verdict.NOT_FOUND, f"marketstack: {sanitize(words, key)}")
        rows = _rows(document.get("data")) if "data" in document else None
        if rows is not None and reply.status == 200:
            pagination = document.get("pagination")
            paging = pagination if isinstance(pagination, dict) else {}
            offset, count, total = (int(number(paging.get(name)) or 0) for name in ("offset", "count", "total"))
            return Page(rows, offset, max(count, len(rows)), total)
    raise error_for_status("marketstack", reply, now)


def _rows(data: object) -> list[Record] | None:
    """Return the rows of a list, where a symbol without any may be an empty list, or of the list in a ticker's own record."""
    if isinstance(data, dict):
        inner = next((data[name] for name in ("eod", "splits", "dividends", "intraday") if isinstance(data.get(name), list)), None)
        rows = _rows(inner) if inner is not None else None
        return None if rows is None else [{"symbol": data.get("symbol"), **row} for row in rows]
    if data is None:
        return []
    if not isinstance(data, list) or any(row and not isinstance(row, dict) for row in data):
        return None
    return [row for row in data if row]


def _refused(error: Record, reply: Reply, now: datetime, key: str) -> ProviderError:
    name = next((str(error[field]).lower() for field in ("code", "type") if isinstance(error.get(field), str)), "")
    words = str(error.get("message") or error.get("info") or name)
    verdict = VERDICTS.get(name) or BY_STATUS.get(reply.status)
    if verdict is None:
        if reply.status != 200:
            return error_for_status("marketstack", reply, now)
        verdict = Verdict.MALFORMED
    if name == "validation_error" and (fault := _fault(error.get("context"))):
        field, kind, words = fault
        verdict = Verdict.NOT_FOUND if field == "symbols" and "valid" in kind else verdict
    message = f"marketstack: {sanitize(words, key)}"
    if verdict is Verdict.UNAUTHORIZED:
        message = "marketstack: the key is not accepted, or its account is not active; set api_key"
    retry_at = retry_after(reply, now) or (_retry_at(name, now) if verdict is Verdict.RATE_LIMITED else None)
    return ProviderError(verdict, message, retry_at)


def _retry_at(name: str, now: datetime) -> datetime | None:
    if name == "rate_limit_reached":
        return now + timedelta(seconds=1)
    # A month of requests begins on the day of the subscription, which is not told: a new one shows within a day.
    return quota_window_end("day", now, "UTC") if name in ("usage_limit_reached", "too_many_requests") else None


def _fault(context: object) -> tuple[str, str, str] | None:
    """Return the first parameter that is at fault, the kind of fault, and the vendor's words."""
    for field, faults in context.items() if isinstance(context, dict) else ():
        for fault in faults if isinstance(faults, list) else [faults]:
            if isinstance(fault, dict):
                return str(field), str(fault.get("key")), f"{field}: {fault.get('message')}"
    return None


def on_busiest_exchange(rows: Sequence[Record]) -> Sequence[Record]:
    """Return the rows of one listing: two exchanges under one symbol are two prices, maybe in two currencies."""
    traded: dict[str, float] = defaultdict(float)
    for row in rows:
        traded[str(row.get("exchange"))] += number(row.get("volume")) or 0.0
    busiest = max(traded, key=traded.__getitem__, default="")
    return rows if len(traded) < 2 else [row for row in rows if str(row.get("exchange")) == busiest]


def unit_in(rows: Sequence[Record]) -> Unit:
    """Return the unit of the prices: as named, else that of the exchange if it is in the US."""
    for row in rows:
        if code := str(row.get("price_currency") or "").strip():
            return unit_of(MINOR_CODES.get(code.upper(), code))
    return Unit("USD") if rows and str(rows[0].get("exchange")) in US_EXCHANGES else PLAIN


def parse_rows(rows: Iterable[Record]) -> Iterator[Bar]:
    """Daily bars, raw, each under the date of its session as it is written."""
    for row in rows:
        if day := day_of(row.get("date")):
            o, h, low, c, adjusted = (price(row.get(name)) for name in ("open", "high", "low", "close", "adj_close"))
            yield Bar(day_start(day, NEW_YORK), o, h, low, c, number(row.get("volume")), adjusted)


def parse_live(rows: Sequence[Record]) -> Quote | None:
    """Parse the newest quote of IEX. Without an agreement with the exchange `last`, bid and ask are null."""
    row = max(rows, key=lambda row: str(row.get("date")), default={})
    last = price(row.get("last")) or price(row.get("marketstack_last"))
    if last is None:
        return None
    before = price(row.get("close"))
    return Quote(
        at=instant_of(row.get("date")),
        price=last,
        bid=price(row.get("bid_price")),
        ask=price(row.get("ask_price")),
        # Now and then a row's close is its own.
        previous_close=before if before != last else None,
        volume=number(row.get("volume")),
    )


def parse_close(rows: Sequence[Record]) -> Quote | None:
    """Parse the newest session's close as a quote: of when in the day it was is not known."""
    row = max(rows, key=lambda row: str(row.get("date")), default={})
    last, day = price(row.get("close")), day_of(row.get("date"))
    if last is None:
        return None
    return Quote(at=day_start(day) if day else None, price=last, volume=number(row.get("volume")))


def parse_splits(rows: Iterable[Record]) -> Iterator[Action]:
    """New shares per old, as a factor, else as `4:1`."""
    for row in rows:
        factor = number(row.get("split_factor")) or _ratio(row.get("stock_split"))
        if factor and factor != 1.0 and (day := day_of(row.get("date"))):
            yield Action(day, "split", factor)


def _ratio(text: object) -> float | None:
    found = re.fullmatch(r"\s*([\d.]+)\s*[:/]\s*([\d.]+)\s*", str(text))
    new, old = (number(found[1]), number(found[2])) if found else (None, None)
    return new / old if new and old else None


def parse_dividends(rows: Iterable[Record]) -> Iterator[Action]:
    """Amounts per share on their ex-dates."""
    for row in rows:
        amount = price(row.get("dividend"))
        if amount and (day := day_of(row.get("date"))):
            yield Action(day, "dividend", amount)


PROVIDER = Marketstack
