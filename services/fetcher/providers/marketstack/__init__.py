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

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import LATEST_BARS, Action, EventBuilder
from services.fetcher.adapter.fields import PLAIN, Unit, dashed_class, pair_of
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
from services.fetcher.providers.marketstack.answers import (
    NEW_YORK,
    Record,
    on_busiest_exchange,
    parse_close,
    parse_dividends,
    parse_live,
    parse_page,
    parse_rows,
    parse_splits,
    unit_in,
)

SYMBOLS = 5  # as each is a request of the five a second
PAGE = 1000
MOST_PAGES = 500
VENDOR_AS_A_WHOLE = frozenset({Verdict.RATE_LIMITED, Verdict.UNAUTHORIZED, Verdict.SERVER_ERROR, Verdict.TIMEOUT})


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

    def __init__(self, access: Credentials) -> None:
        self._key = access.api_key
        # Shorter intervals want a larger plan still.
        self._interval = str(access.options.get("interval") or "15min")
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

    async def _bars(self, asked: Sequence[EventBuilder], http: Http) -> Answer:
        start, end = asked[0].call.start, asked[0].call.end
        if start is None or end is None:
            rows = await self._rows(asked, http, "eod", {"limit": str(LATEST_BARS)}, pages=1)
        else:
            # Oldest first: a bar that comes in between two pages shifts none of the others.
            days = {"date_from": str(start), "date_to": str(end - timedelta(days=1)), "sort": "ASC"}
            rows = await self._rows(asked, http, "eod", days)
        events: list[PriceEvent] = []
        for each in asked:
            own = on_busiest_exchange(self._own(rows, each.symbol))
            if own or start is not None:  # who has not even a latest bar is unknown, hence left out
                events += replace(each, unit=unit_in(own)).bars(parse_rows(own))
        return Answer(events)

    async def _quotes(self, asked: Sequence[EventBuilder], http: Http) -> Answer:
        events = await self._live_quotes([each for each in asked if _may_be_of_iex(each.symbol)], http)
        quoted = {event.symbol for event in events}
        rest = [each for each in asked if each.symbol not in quoted]
        failed: dict[str, ProviderError] = {}
        try:
            rows = await self._rows(rest, http, "eod/latest", pages=1) if rest else []
        except ProviderError as error:
            if not events:
                raise
            failed = {each.symbol: error for each in rest}
            rows = []
        for each in rest:
            own = on_busiest_exchange(self._own(rows, each.symbol))
            if spot := parse_close(own):
                # The date of a session does not say when in the day its close was true.
                events.append(replace(each, unit=unit_in(own)).quote(spot))
        return Answer(events, failed)

    async def _live_quotes(self, asked: Sequence[EventBuilder], http: Http) -> list[PriceEvent]:
        """Those that IEX has; none where the plan does not have them."""
        if not asked or not self._has_intraday:
            return []
        try:
            rows = await self._rows(asked, http, "intraday/latest", {"interval": self._interval}, pages=1)
        except ProviderError as error:
            if error.verdict in VENDOR_AS_A_WHOLE:
                raise
            self._has_intraday = error.verdict is not Verdict.PLAN_RESTRICTED
            return []
        found = ((each, parse_live(self._own(rows, each.symbol))) for each in asked)
        return [replace(each, unit=Unit("USD"), feed="iex").quote(spot, spot.at) for each, spot in found if spot]

    async def _actions(self, asked: Sequence[EventBuilder], http: Http) -> Answer:
        call = asked[0].call
        days = {"date_from": str(call.start)} if call.start else {}
        days |= {"date_to": str(call.end - timedelta(days=1))} if call.end else {}
        actions: dict[str, list[Action]] = {each.symbol: [] for each in asked}
        unknown: list[ProviderError] = []
        for path, parse in (("splits", parse_splits), ("dividends", parse_dividends)):
            try:
                rows = await self._rows(asked, http, path, days | {"sort": "ASC"})
            except ProviderError as error:
                # Who never split, or never paid, may be unknown to that list alone.
                if error.verdict not in (Verdict.NOT_FOUND, Verdict.EMPTY):
                    raise
                unknown.append(error)
                continue
            for each in asked:
                actions[each.symbol] += parse(self._own(rows, each.symbol))
        if len(unknown) == 2:
            raise unknown[0]
        # No currency is named; a symbol without an exchange is of the US.
        units = {each.symbol: Unit("USD") if _may_be_of_iex(each.symbol) else PLAIN for each in asked}
        return Answer([replace(each, unit=units[each.symbol]).actions(actions[each.symbol]) for each in asked])

    def _own(self, rows: Iterable[Record], symbol: str) -> list[Record]:
        """The rows of one symbol, whichever way its share class is spelled."""
        wanted = _spelled(self.to_vendor(symbol))
        return [row for row in rows if _spelled(str(row.get("symbol"))) == wanted]

    async def _rows(
        self, asked: Sequence[EventBuilder], http: Http, path: str, params: dict[str, str] | None = None, pages: int = MOST_PAGES
    ) -> list[Record]:
        """The rows of at most so many pages."""
        spell = dashed_class if path.startswith("intraday") else str
        symbols = ",".join(spell(self.to_vendor(each.symbol)) for each in asked)
        query = {"access_key": self._key, "symbols": symbols, "limit": str(PAGE)} | (params or {})
        rows: list[Record] = []
        offset = 0
        for _ in range(pages):
            reply = await http.get(f"/v2/{path}", query | {"offset": str(offset)}, cost=len(asked))
            page = parse_page(reply, asked[0].now, self._key)
            if page.rows and page.offset < offset:
                raise ProviderError(Verdict.MALFORMED, f"marketstack: answered the rows from {page.offset} instead of {offset}")
            rows += page.rows
            offset = page.offset + page.length
            if not page.length or offset >= page.total:
                return rows
        if pages == MOST_PAGES:
            raise ProviderError(Verdict.MALFORMED, f"marketstack: has no end after {MOST_PAGES} pages; ask for a shorter range")
        return rows


def _symbols_a_request(call: FetchCall) -> int:
    if call.dataset != "bars":
        return SYMBOLS
    if call.start is None or call.end is None:
        return 1
    return max(1, min(SYMBOLS, PAGE // (call.end - call.start).days))


def _may_be_of_iex(symbol: str) -> bool:
    """Whether it names no exchange: a share class has one letter, a MIC four."""
    return "." not in dashed_class(symbol) and not symbol.startswith("^")


def _spelled(symbol: str) -> str:
    return symbol.upper().replace("-", ".")


PROVIDER = Marketstack
