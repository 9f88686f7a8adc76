"""Alpha Vantage: bars of shares, currencies and crypto, quotes, end-of-day option chains, splits and dividends.

Source: https://www.alphavantage.co/documentation/
Limits: a free key has 25 calls a day and one a second. Daily `outputsize=full`, intraday and adjusted daily series want a plan.
Units: shares' prices raw as traded, in the listing's currency, which is not named; `adjusted_close` where the series has it (weekly
and monthly always, daily with the option `adjusted = 1`). Naive times are US/Eastern for shares, UTC for pairs. A weekly or monthly
bar carries its last trading day, the newest may still be open.
Quirks: errors come with status 200, and JSON and CSV both may come whatever was asked, so the body decides. Rows beside a top-level
`message` are made up. The refusal of an overspent key repeats the key: its words are never passed on.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Action, Bar, Contract, EventBuilder, Quote
from services.fetcher.adapter.fields import (
    LENGTHS,
    PLAIN,
    Pair,
    Unit,
    dashed_class,
    day_of,
    day_start,
    instant_of,
    number,
    pair_of,
    price,
)
from services.fetcher.adapter.responses import check_zone, decode_json, decode_text, error_for_status, fetch_each, quota_window_end
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

EASTERN = "US/Eastern"
INTERVALS: dict[Timeframe, str] = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min"}
SERIES: dict[str, dict[Timeframe, str]] = {
    "share": {"1d": "TIME_SERIES_DAILY", "1wk": "TIME_SERIES_WEEKLY_ADJUSTED", "1mo": "TIME_SERIES_MONTHLY_ADJUSTED"},
    "fx": {"1d": "FX_DAILY", "1wk": "FX_WEEKLY", "1mo": "FX_MONTHLY"},
    "crypto": {"1d": "DIGITAL_CURRENCY_DAILY", "1wk": "DIGITAL_CURRENCY_WEEKLY", "1mo": "DIGITAL_CURRENCY_MONTHLY"},
}
INTRADAY = {"share": "TIME_SERIES_INTRADAY", "fx": "FX_INTRADAY", "crypto": "CRYPTO_INTRADAY"}
COMPACT = timedelta(days=130)  # holds fewer sessions than the 100 of a compact answer
MONTH_BACK = timedelta(days=29)  # an intraday answer without a month holds the last 30 days
THROTTLED = ("rate limit", "requests per day", "call volume", "call frequency", "per minute", "per second", "sparingly")
FIRST_COLUMNS = ("timestamp", "symbol", "contractid", "exdividenddate", "effectivedate")
PRICES = ("open", "high", "low", "close", "volume", "adjustedclose")
Record = Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """The rows of any answer under one spelling of names, such as `adjustedclose`, and the zone of its times."""

    rows: Sequence[Record]
    zone: str | None = None


class AlphaVantage:
    """Alpha Vantage with one key."""

    profile = Profile(
        name="alpha_vantage",
        base_url="https://www.alphavantage.co",
        offers={"bars": TIMEFRAMES, "quote": (), "chain": (), "actions": ()},
        basis="raw",
        feed="eod",
        delay_s=900.0,
        limits=Limits(per_second=1, per_day=25),
    )

    def __init__(self, credentials: Credentials) -> None:
        self._key = credentials.api_key
        self._adjusted = bool(credentials.options.get("adjusted"))

    def to_vendor(self, symbol: str) -> str:
        """`BRK-B` for BRK.B; pairs are sent as their two sides."""
        return dashed_class(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. One request a symbol; intraday ranges take one a month, splits and dividends one each."""
        refuse_unoffered(self.profile, call)
        ask = {"bars": self._bars, "quote": self._quote, "chain": self._chain, "actions": self._actions}[call.dataset]
        return await fetch_each(call.symbols, lambda symbol: ask(EventBuilder(self.profile, call, symbol, now), http))

    async def _bars(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        pair, timeframe = pair_of(builder.symbol), builder.call.timeframe or "1d"
        feed = "delayed" if timeframe in LENGTHS else ""
        builder = replace(builder, unit=_unit(pair), zone="UTC" if pair else EASTERN, feed=feed)
        rows: list[Bar] = []
        for params in self._series(builder, pair, timeframe):
            table = await self._table(http, params, builder.now)
            if table.zone and not pair:
                builder = replace(builder, zone=check_zone("alpha_vantage", table.zone))
            rows += parse_rows(table, timeframe, builder.zone)
        return builder.bars(rows)

    def _series(self, builder: EventBuilder, pair: Pair | None, timeframe: Timeframe) -> Iterator[dict[str, str]]:
        """Return the requests that cover the call."""
        kind = "share" if pair is None else "fx" if pair.fx else "crypto"
        params = self._symbol_in(builder.symbol, pair)
        start, now = builder.call.start, builder.now
        if timeframe in LENGTHS:
            params |= {"function": INTRADAY[kind], "interval": INTERVALS[timeframe], "outputsize": "full"}
            if kind == "share":
                params |= {"adjusted": "false", "extended_hours": "false"}
                if start is not None and day_start(start) < now - MONTH_BACK:
                    yield from (params | {"month": month} for month in _months(builder.call, now))
                    return
        else:
            params["function"] = SERIES[kind][timeframe]
            if timeframe == "1d":
                params["outputsize"] = "compact" if start is None or day_start(start) > now - COMPACT else "full"
                params["function"] += "_ADJUSTED" if kind == "share" and self._adjusted else ""
        yield params

    def _symbol_in(self, symbol: str, pair: Pair | None) -> dict[str, str]:
        if pair is None:
            return {"symbol": self.to_vendor(symbol)}
        return {"from_symbol": pair.base, "to_symbol": pair.quote} if pair.fx else {"symbol": pair.base, "market": pair.quote}

    async def _quote(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if pair := pair_of(builder.symbol):
            params = {"function": "CURRENCY_EXCHANGE_RATE", "from_currency": pair.base, "to_currency": pair.quote}
            quote = parse_exchange_rate(await self._table(http, params, builder.now))
            builder, observed_at = replace(builder, unit=_unit(pair), feed="delayed"), quote.at if quote else None
        else:
            params = {"function": "GLOBAL_QUOTE", "symbol": self.to_vendor(builder.symbol)}
            # The date of a quote does not say when in the day it was true.
            quote, observed_at = parse_quote(await self._table(http, params, builder.now)), None
        if quote is None:
            raise ProviderError(Verdict.NOT_FOUND, f"alpha_vantage: has no quote of {builder.symbol}")
        return [builder.quote(quote, observed_at)]

    async def _chain(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        self._refuse_pair(builder)
        params = {"function": "HISTORICAL_OPTIONS", "symbol": self.to_vendor(builder.symbol)}
        return builder.chain(parse_contracts(await self._table(http, params, builder.now)))

    async def _actions(self, builder: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        self._refuse_pair(builder)
        symbol = self.to_vendor(builder.symbol)
        actions: list[Action] = []
        unknown: list[ProviderError] = []
        for function in ("SPLITS", "DIVIDENDS"):
            try:
                actions += parse_actions(await self._table(http, {"function": function, "symbol": symbol}, builder.now))
            except ProviderError as error:
                # Who never split, or never paid, looks like a symbol that is unknown: known to one is known.
                if error.verdict is not Verdict.NOT_FOUND:
                    raise
                unknown.append(error)
        if len(unknown) == 2:
            raise unknown[0]
        return [builder.actions(actions)]

    def _refuse_pair(self, builder: EventBuilder) -> None:
        if pair_of(builder.symbol):
            raise ProviderError(Verdict.BAD_REQUEST, f"alpha_vantage has no {builder.call.dataset} of the pair {builder.symbol}")

    async def _table(self, http: Http, params: dict[str, str], now: datetime) -> Table:
        # The vendor takes the key in the query only, so nothing may ever show this URL.
        return parse_table(await http.get("/query", params | {"datatype": "json", "apikey": self._key}), now)


def _unit(pair: Pair | None) -> Unit:
    return Unit(pair.quote) if pair else PLAIN


def _months(call: FetchCall, now: datetime) -> Iterator[str]:
    if call.start is None or call.end is None:
        return
    month, last = call.start.replace(day=1), min(call.end - timedelta(days=1), now.date())
    while month <= last:
        yield f"{month:%Y-%m}"
        month = (month + timedelta(days=31)).replace(day=1)


def parse_table(reply: Reply, now: datetime) -> Table:
    """Parse the rows of a JSON or CSV answer.

    Raises:
        ProviderError: it is an error, or none of both.
    """
    # The vendor refuses with status 200; any other is the word of whatever stands in front of it.
    if reply.status != 200:
        raise error_for_status("alpha_vantage", reply, now)
    document = decode_json(reply)
    if isinstance(document, dict):
        if error := _refused(document, now):
            raise error
        return _from_json(document)
    header, *lines = decode_text(reply).splitlines() or [""]
    names = [_name(name) for name in header.split(",")]
    if names[0] in FIRST_COLUMNS and len(names) > 1:
        return Table([_first(zip(names, cells, strict=False)) for cells in csv.reader(lines) if cells])
    if any(word in header.lower() for word in THROTTLED) and reply.body.lstrip()[:1] != b"<":
        raise _notice(header, now)
    raise error_for_status("alpha_vantage", reply, now)


def _from_json(document: Record) -> Table:
    meta = _record(document.get("Meta Data"))
    zone = next((str(value) for name, value in meta.items() if name == "timezone"), None)
    for name, value in document.items():
        if isinstance(value, list) and name == "data":
            return Table([_record(row) for row in value])
        if isinstance(value, dict) and "Time Series" in name:
            return Table([{"timestamp": time, **_record(cells)} for time, cells in value.items()], zone)
        if isinstance(value, dict) and name.startswith(("Global Quote", "Realtime Currency Exchange Rate")):
            return Table([_record(value)] if value else [])
    if not document:
        raise ProviderError(Verdict.NOT_FOUND, "alpha_vantage: answered with nothing, as for a symbol it does not know")
    if not meta:
        raise ProviderError(Verdict.MALFORMED, "alpha_vantage: answered something else instead of data")
    return Table([])


def _record(cells: object) -> Record:
    return _first((_name(name), value) for name, value in cells.items()) if isinstance(cells, dict) else {}


def _first(cells: Iterable[tuple[str, object]]) -> Record:
    """Keep the first of two columns of a name: crypto prices come in the currency that was asked, then again in dollars."""
    return dict(reversed(list(cells)))


def _name(name: str) -> str:
    return re.sub(r"^\d+[a-z]?\. *|\(.*?\)|[^a-z]", "", name.strip().lower())


def _refused(document: Record, now: datetime) -> ProviderError | None:
    if error := document.get("Error Message"):
        if "apikey" in str(error).lower():
            return ProviderError(Verdict.UNAUTHORIZED, "alpha_vantage: the key is not accepted; set api_key")
        return ProviderError(Verdict.NOT_FOUND, "alpha_vantage: no such symbol, or not in this series")
    if notice := document.get("Note") or document.get("Information"):
        return _notice(str(notice), now)
    message = str(document.get("message") or "success").lower()
    if message == "success":
        return None
    if document.get("data") or "premium" in message:
        return ProviderError(Verdict.PLAN_RESTRICTED, "alpha_vantage: wants a premium plan for this; its sample rows are made up")
    if "data" not in document:
        return ProviderError(Verdict.MALFORMED, "alpha_vantage: a message instead of data that says neither limit nor plan nor key")
    return ProviderError(Verdict.EMPTY, "alpha_vantage: has no data for this")


def _notice(notice: str, now: datetime) -> ProviderError:
    words = notice.lower()
    # A throttled caller is told of premium endpoints too, and of every limit: what he ran into is the shortest one.
    if "this is a premium" in words or "premium feature" in words:
        return ProviderError(Verdict.PLAN_RESTRICTED, "alpha_vantage: wants a premium plan for this")
    if any(word in words for word in THROTTLED):
        window = next((name for name in ("second", "minute", "day") if f"per {name}" in words or f"/{name}" in words), "")
        which = f" a {window}" if window else ""
        return ProviderError(
            Verdict.RATE_LIMITED, f"alpha_vantage: no more calls{which} on this key", quota_window_end(window, now, "UTC")
        )
    if "premium" in words:
        return ProviderError(Verdict.PLAN_RESTRICTED, "alpha_vantage: wants a premium plan for this")
    if "demo" in words or "api key" in words or "apikey" in words:
        return ProviderError(Verdict.UNAUTHORIZED, "alpha_vantage: the key is not accepted; set api_key")
    return ProviderError(Verdict.MALFORMED, "alpha_vantage: a notice instead of data that says neither limit nor plan nor key")


def parse_rows(table: Table, timeframe: Timeframe, zone: str) -> Iterator[Bar]:
    """Parse the bars; one without a readable time is left out."""
    for row in table.rows:
        day = day_of(row.get("timestamp"))
        at = instant_of(row.get("timestamp"), zone) if timeframe in LENGTHS else day_start(day, zone) if day else None
        if at is not None:
            o, h, low, c, volume, adjusted = (number(row.get(name)) for name in PRICES)
            yield Bar(at, o, h, low, c, volume, adjusted)


def parse_contracts(table: Table) -> Iterator[Contract]:
    """Parse the options of a session, under its date; greeks are unknown where the volatility is."""
    for row in table.rows:
        expiry, as_of = day_of(row.get("expiration")), day_of(row.get("date"))
        iv = price(row.get("impliedvolatility"))
        if expiry is not None:
            yield Contract(
                contract=str(row.get("contractid", "")),
                expiry=expiry,
                strike=number(row.get("strike")) or 0.0,
                right="put" if str(row.get("type")).lower().startswith("p") else "call",
                bid=price(row.get("bid")),
                ask=price(row.get("ask")),
                last=price(row.get("last")),
                mark=price(row.get("mark")),
                volume=number(row.get("volume")),
                open_interest=number(row.get("openinterest")),
                iv=iv,
                delta=number(row.get("delta")) if iv else None,
                gamma=number(row.get("gamma")) if iv else None,
                theta=number(row.get("theta")) if iv else None,
                vega=number(row.get("vega")) if iv else None,
                at=day_start(as_of) if as_of else None,
            )


def parse_quote(table: Table) -> Quote | None:
    """Parse the quote of a share; it has a session date and no time of day."""
    row = table.rows[0] if table.rows else {}
    day = day_of(row.get("latesttradingday") or row.get("latestday"))
    last = price(row.get("price"))
    if last is None:
        return None
    at = day_start(day) if day else None
    return Quote(at=at, price=last, previous_close=price(row.get("previousclose")), volume=number(row.get("volume")))


def parse_exchange_rate(table: Table) -> Quote | None:
    """Parse the rate of a pair."""
    row = table.rows[0] if table.rows else {}
    last = price(row.get("exchangerate"))
    at = instant_of(row.get("lastrefreshed"))
    return (last and Quote(at=at, price=last, bid=price(row.get("bidprice")), ask=price(row.get("askprice")))) or None


def parse_actions(table: Table) -> Iterator[Action]:
    """Parse the splits of one answer, the dividends of another."""
    for row in table.rows:
        split, dividend = number(row.get("splitfactor")), number(row.get("amount"))
        if split and (day := day_of(row.get("effectivedate"))):
            yield Action(day, "split", split)
        if dividend and (day := day_of(row.get("exdividenddate"))):
            yield Action(day, "dividend", dividend)


PROVIDER = AlphaVantage
