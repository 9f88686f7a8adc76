"""Charles Schwab: bars, quotes of every kind of asset, and option chains of its Trader API, by a login that ends after a week.

Source: https://developer.schwab.com (Trader API, Market Data Production)
Limits: 120 requests a minute for an application; not published. Minute bars reach back some 48 days at 1m, nine months at 5m to
30m. A gateway passes on no answer larger than about 10 MB, which the chains of large indices are: those are asked by expiration.
Units: dollars a share, adjusted for splits only; a currency pair in its second currency. Volatility comes in percent.
Quirks: an access token serves 30 minutes, and a login 7 days from when the person logged in (`options.logged_in_at`; without it,
from its first use), whatever is renewed. `BRK/B` is a share class, `$SPX` an index, `/ES` a future, EUR/USD a pair; an option's
name has 21 characters. Minute bars come for whole days whatever the range; there are none of an hour. Unknown symbols are a list
beside the quotes. -999, NaN, 0 and -1 all mean unknown. There is no list of splits and dividends.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from urllib.parse import quote_plus

from contracts.message import Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Contract, EventBuilder
from services.fetcher.adapter.fields import (
    EPOCH,
    LENGTHS,
    NEW_YORK,
    Pair,
    Unit,
    dashed_class,
    day_start,
    pair_of,
    period_end,
    period_start,
)
from services.fetcher.adapter.responses import fetch_each
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
from services.fetcher.providers.schwab.auth import LOGIN_LASTS, token_manager
from services.fetcher.providers.schwab.parsing import (
    ChainSlice,
    Document,
    TooMuchError,
    document_in,
    parse_chain,
    parse_expirations,
    parse_quote,
    parse_rows,
    plain,
    quotes_in,
    refuses_token,
    split,
)

ROOT = "/marketdata/v1"
FREQUENCIES: dict[Timeframe, tuple[str, str, str]] = {
    "1m": ("day", "minute", "1"),
    "5m": ("day", "minute", "5"),
    "15m": ("day", "minute", "15"),
    "30m": ("day", "minute", "30"),
    "1d": ("year", "daily", "1"),
    "1wk": ("year", "weekly", "1"),
    "1mo": ("year", "monthly", "1"),
}
# So many days hold 500 bars.
LATEST_DAYS: dict[Timeframe, int] = {"1m": 7, "5m": 14, "15m": 30, "30m": 59, "1d": 740, "1wk": 3530, "1mo": 15300}
SYMBOLS_LENGTH = 1800  # of the list of symbols in a request's address
INDICES = {"^GSPC": "$SPX", "^IXIC": "$COMPX"}  # others have one name everywhere
OPTION = re.compile(r"(?:O:)?([A-Z0-9]{1,6}) *(\d{6}[CP]\d{8})")
REMEMBERED_CHAINS = 1000
# The next request would end no better.
STOPPING = (Verdict.RATE_LIMITED, Verdict.UNAUTHORIZED, Verdict.SERVER_ERROR, Verdict.TIMEOUT)


class Schwab:
    """Schwab with one application and the login of one person."""

    profile = Profile(
        name="schwab",
        base_url="https://api.schwabapi.com",
        offers={"bars": tuple(FREQUENCIES), "quote": (), "chain": ()},
        basis="split",
        feed="consolidated",
        symbols_per_call={"quote": 200},
        limits=Limits(per_minute=120),
        secrets=("api_key", "api_secret", "refresh_token"),
        login_lasts=LOGIN_LASTS,
    )

    def __init__(self, credentials: Credentials) -> None:
        self._tokens = token_manager(credentials)
        self._secrets = (credentials.api_key, credentials.api_secret, credentials.refresh_token)
        self._fitting: dict[str, int] = {}  # expirations in one answer, of chains that do not fit whole

    def to_vendor(self, symbol: str) -> str:
        """`BRK/B` for BRK.B, `$SPX` for ^GSPC, `/ES` for ES=F, EUR/USD, and options padded to 21 characters."""
        if option := OPTION.fullmatch(symbol):
            return f"{option[1]:<6}{option[2]}"
        if symbol.startswith("^"):
            return INDICES.get(symbol, f"${symbol[1:]}")
        if symbol.endswith("=F"):
            return f"/{symbol[:-2]}"
        if pair := _fx(symbol.removesuffix("=X")):
            return f"{pair.base}/{pair.quote}"
        dashed = dashed_class(symbol)
        return symbol if dashed == symbol else dashed.replace("-", "/")

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. Quotes share requests; bars take one a symbol, chains one if they fit in one answer."""
        refuse_unoffered(self.profile, call)
        if call.dataset == "quote":
            return await self._quotes(call, http, now)
        ask = self._chain if call.dataset == "chain" else self._bars
        return await fetch_each(call.symbols, lambda symbol: ask(self._builder(call, symbol, now), http))

    def _builder(self, call: FetchCall, symbol: str, now: datetime) -> EventBuilder:
        pair = _fx(self.to_vendor(symbol))
        return EventBuilder(self.profile, call, symbol, now, Unit(pair.quote if pair else "USD"), NEW_YORK)

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        timeframe, symbol = builder.call.timeframe or "1d", self.to_vendor(builder.symbol)
        period, kind, frequency = FREQUENCIES[timeframe]
        start, end = _window(builder.call, timeframe, builder.now)
        params = {
            "symbol": symbol,
            "periodType": period,
            "frequencyType": kind,
            "frequency": frequency,
            "startDate": _milliseconds(start),
            "endDate": _milliseconds(end),
            "needExtendedHoursData": "false",
            "needPreviousClose": "false",
        }
        history = await self._document(http, "/pricehistory", params, builder.now)
        return builder.bars(parse_rows(history, timeframe, has_volume=not symbol.startswith("$") and _fx(symbol) is None))

    async def _quotes(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        events: list[PriceEvent] = []
        failed: dict[str, ProviderError] = {}
        stop: ProviderError | None = None
        groups = list(self._groups(call.symbols))
        for group in groups:
            try:
                if stop is not None:
                    raise stop
                events += await self._quotes_of([self._builder(call, symbol, now) for symbol in group], http, failed)
            except ProviderError as error:
                if len(groups) == 1:
                    raise
                failed |= dict.fromkeys(group, error)
                stop = error if error.verdict in STOPPING else None
        if stop is not None and not events:
            raise stop
        return Answer(events, failed)

    def _groups(self, symbols: Sequence[str]) -> Iterator[list[str]]:
        """Return the symbols in lists that an address has room for."""
        group: list[str] = []
        length = 0
        for symbol in symbols:
            more = len(quote_plus(self.to_vendor(symbol) + ","))
            if group and length + more > SYMBOLS_LENGTH:
                yield group
                group, length = [], 0
            group.append(symbol)
            length += more
        yield group

    async def _quotes_of(self, builders: Sequence[EventBuilder], http: Http, failed: dict[str, ProviderError]) -> list[PriceEvent]:
        names = {each.symbol: self.to_vendor(each.symbol) for each in builders}
        params = {"symbols": ",".join(names.values()), "fields": "quote,regular,reference", "indicative": "false"}
        found, unknown = quotes_in(await self._document(http, "/quotes", params, builders[0].now))
        events: list[PriceEvent] = []
        for each in builders:
            name = plain(names[each.symbol])
            entry = found.get(name, {})
            quote = parse_quote(entry)
            if quote.price is not None or quote.bid is not None or quote.ask is not None:
                placed = replace(each, feed="delayed") if entry.get("realtime") is False else each
                events.append(placed.quote(quote, quote.at))
            elif name in unknown or not entry:
                failed[each.symbol] = ProviderError(Verdict.NOT_FOUND, f"schwab: knows no {each.symbol}")
            else:
                failed[each.symbol] = ProviderError(Verdict.EMPTY, f"schwab: has no price of {each.symbol}")
        return events

    async def _chain(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        symbol = self.to_vendor(builder.symbol)
        pieces = deque([ChainSlice()])
        if size := self._fitting.get(symbol):
            days = await self._expirations(symbol, http, builder.now)
            pieces = deque(ChainSlice(days[i : i + size]) for i in range(0, len(days), size))
        contracts: list[Contract] = []
        while pieces:
            piece = pieces.popleft()
            try:
                params = {"symbol": symbol, **piece.params}
                chain = parse_chain(await self._document(http, "/chains", params, builder.now))
            except TooMuchError as error:
                days = piece.days or await self._expirations(symbol, http, builder.now)
                pieces.extendleft(reversed(split(piece, days, error)))
                self._remember(symbol, max(1, (len(days) + 1) // 2))
            else:
                contracts += chain.contracts
                builder = replace(builder, feed="delayed") if chain.delayed else builder
        return builder.chain(contracts)

    def _remember(self, symbol: str, size: int) -> None:
        if len(self._fitting) >= REMEMBERED_CHAINS:
            self._fitting.clear()
        self._fitting[symbol] = min(size, self._fitting.get(symbol, size))

    async def _expirations(self, symbol: str, http: Http, now: datetime) -> tuple[date, ...]:
        return tuple(parse_expirations(await self._document(http, "/expirationchain", {"symbol": symbol}, now)))

    async def _document(self, http: Http, path: str, params: Mapping[str, str], now: datetime) -> Document:
        token = await self._tokens.access_token(http)
        reply = await self._get(http, path, params, token)
        if refuses_token(reply):
            token = await self._tokens.access_token(http, refused=token)
            reply = await self._get(http, path, params, token)
        return document_in(reply, now, token, *self._secrets)

    async def _get(self, http: Http, path: str, params: Mapping[str, str], token: str) -> Reply:
        return await http.get(ROOT + path, params, {"Authorization": f"Bearer {token}", "Accept": "application/json"})


def _fx(symbol: str) -> Pair | None:
    pair = pair_of(symbol)
    return pair if pair and pair.fx else None


def _window(call: FetchCall, timeframe: Timeframe, now: datetime) -> tuple[datetime, datetime]:
    """Return the range to request: whole weeks and months, cut to the days later; a session may open the evening before."""
    if call.start is None or call.end is None:
        return now - timedelta(days=LATEST_DAYS[timeframe]), now
    if timeframe in LENGTHS:
        return day_start(call.start), day_start(call.end)
    first = period_start(call.start, timeframe) - timedelta(days=1)
    end = period_end(period_start(call.end - timedelta(days=1), timeframe), timeframe)
    return day_start(first), day_start(end)


def _milliseconds(at: datetime) -> str:
    return str(max(0, int((at - EPOCH).total_seconds() * 1000)))


PROVIDER = Schwab
