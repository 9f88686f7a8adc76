"""Alpha Vantage: bars of shares, currencies and crypto, quotes, end-of-day option chains, splits and dividends.

Source: https://www.alphavantage.co/documentation/
Limits: a free key has 25 calls a day and one a second. Daily `outputsize=full`, intraday and adjusted daily series want a plan.
Units: shares' prices raw as traded, in the listing's currency, which is not named; `adjusted_close` where the series has it (weekly
and monthly always, daily with the option `adjusted = 1`). Naive times are US/Eastern for shares, UTC for pairs. A weekly or monthly
bar carries its last trading day, the newest may still be open.
Quirks: errors come with status 200, and JSON and CSV both may come whatever was asked, so the body decides. Rows beside a top-level
`message` are made up. The refusal of an overspent key repeats the key: its words are never passed on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from contracts.message import TIMEFRAMES, Timeframe
from contracts.price_events import PriceEvent
from services.fetcher.adapter.events import Action, Bar, EventBuilder
from services.fetcher.adapter.fields import LENGTHS, PLAIN, Pair, Unit, dashed_class, day_start, pair_of
from services.fetcher.adapter.responses import check_zone, fetch_each
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
from services.fetcher.providers.alpha_vantage.answers import (
    Table,
    parse_actions,
    parse_contracts,
    parse_exchange_rate,
    parse_quote,
    parse_rows,
    parse_table,
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

    def __init__(self, access: Credentials) -> None:
        self._key = access.api_key
        self._adjusted = bool(access.options.get("adjusted"))

    def to_vendor(self, symbol: str) -> str:
        """`BRK-B` for BRK.B; pairs are sent as their two sides."""
        return dashed_class(symbol)

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """See `Provider.fetch`. One request a symbol; intraday ranges take one a month, splits and dividends one each."""
        refuse_unoffered(self.profile, call)
        ask = {"bars": self._bars, "quote": self._quote, "chain": self._chain, "actions": self._actions}[call.dataset]
        return await fetch_each(call.symbols, lambda symbol: ask(EventBuilder(self.profile, call, symbol, now), http))

    async def _bars(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        pair, timeframe = pair_of(asked.symbol), asked.call.timeframe or "1d"
        feed = "delayed" if timeframe in LENGTHS else ""
        asked = replace(asked, unit=_unit(pair), zone="UTC" if pair else EASTERN, feed=feed)
        rows: list[Bar] = []
        for params in self._series(asked, pair, timeframe):
            table = await self._table(http, params, asked.now)
            if table.zone and not pair:
                asked = replace(asked, zone=check_zone("alpha_vantage", table.zone))
            rows += parse_rows(table, timeframe, asked.zone)
        return asked.bars(rows)

    def _series(self, asked: EventBuilder, pair: Pair | None, timeframe: Timeframe) -> Iterator[dict[str, str]]:
        """The requests that cover the call."""
        kind = "share" if pair is None else "fx" if pair.fx else "crypto"
        params = self._who(asked.symbol, pair)
        start, now = asked.call.start, asked.now
        if timeframe in LENGTHS:
            params |= {"function": INTRADAY[kind], "interval": INTERVALS[timeframe], "outputsize": "full"}
            if kind == "share":
                params |= {"adjusted": "false", "extended_hours": "false"}
                if start is not None and day_start(start) < now - MONTH_BACK:
                    yield from (params | {"month": month} for month in _months(asked.call, now))
                    return
        else:
            params["function"] = SERIES[kind][timeframe]
            if timeframe == "1d":
                params["outputsize"] = "compact" if start is None or day_start(start) > now - COMPACT else "full"
                params["function"] += "_ADJUSTED" if kind == "share" and self._adjusted else ""
        yield params

    def _who(self, symbol: str, pair: Pair | None) -> dict[str, str]:
        if pair is None:
            return {"symbol": self.to_vendor(symbol)}
        return {"from_symbol": pair.base, "to_symbol": pair.quote} if pair.fx else {"symbol": pair.base, "market": pair.quote}

    async def _quote(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        if pair := pair_of(asked.symbol):
            params = {"function": "CURRENCY_EXCHANGE_RATE", "from_currency": pair.base, "to_currency": pair.quote}
            spot = parse_exchange_rate(await self._table(http, params, asked.now))
            asked, observed_at = replace(asked, unit=_unit(pair), feed="delayed"), spot.at if spot else None
        else:
            params = {"function": "GLOBAL_QUOTE", "symbol": self.to_vendor(asked.symbol)}
            # The date of a quote does not say when in the day it was true.
            spot, observed_at = parse_quote(await self._table(http, params, asked.now)), None
        if spot is None:
            raise ProviderError(Verdict.NOT_FOUND, f"alpha_vantage: has no quote of {asked.symbol}")
        return [asked.quote(spot, observed_at)]

    async def _chain(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        self._refuse_pair(asked)
        params = {"function": "HISTORICAL_OPTIONS", "symbol": self.to_vendor(asked.symbol)}
        return asked.chain(parse_contracts(await self._table(http, params, asked.now)))

    async def _actions(self, asked: EventBuilder, http: Http) -> Sequence[PriceEvent]:
        self._refuse_pair(asked)
        symbol = self.to_vendor(asked.symbol)
        actions: list[Action] = []
        unknown: list[ProviderError] = []
        for function in ("SPLITS", "DIVIDENDS"):
            try:
                actions += parse_actions(await self._table(http, {"function": function, "symbol": symbol}, asked.now))
            except ProviderError as error:
                # Who never split, or never paid, looks like a symbol that is unknown: known to one is known.
                if error.verdict is not Verdict.NOT_FOUND:
                    raise
                unknown.append(error)
        if len(unknown) == 2:
            raise unknown[0]
        return [asked.actions(actions)]

    def _refuse_pair(self, asked: EventBuilder) -> None:
        if pair_of(asked.symbol):
            raise ProviderError(Verdict.BAD_REQUEST, f"alpha_vantage has no {asked.call.dataset} of the pair {asked.symbol}")

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


PROVIDER = AlphaVantage
