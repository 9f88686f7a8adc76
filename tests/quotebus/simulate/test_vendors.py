"""Vendors played on this machine, asked over HTTP through the adapters that ask the real ones."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceQuote
from quotebus.simulate.market import SimulatedMarket
from quotebus.simulate.server import Rules, Simulator
from quotebus.simulate.vendor import SECRETS, vendors
from services.fetcher.adapter.fields import LENGTHS
from services.fetcher.http.client import MeteredHttp, no_permit_needed, open_session
from services.fetcher.provider import Answer, Credentials, FetchCall, Limits, Provider, ProviderError, Verdict, providers

NOW = datetime(2026, 3, 11, 18, 30, 20, tzinfo=UTC)  # a Wednesday, 14:30 in New York
NAMES = sorted(vendors())
DAYS = (date(2026, 2, 20), date(2026, 3, 11))


def test_every_provider_can_be_played_but_the_made_up_one():
    assert set(NAMES) == providers().keys() - {"synthetic"}


def bar_cases() -> Iterator[tuple[str, Timeframe]]:
    for name in NAMES:
        for timeframe in providers()[name].profile.offers.get("bars", ()):
            yield name, timeframe


def offering(dataset: str) -> list[str]:
    return [name for name in NAMES if dataset in providers()[name].profile.offers]


@asynccontextmanager
async def played(
    name: str, *, timeout_s: float = 5.0, secrets: dict[str, str] = SECRETS, **rules: object
) -> AsyncIterator["Asked"]:
    """A vendor, and its adapter over HTTP."""
    simulator = Simulator(vendors()[name], Rules(**{"clock": lambda: NOW, **rules}))  # type: ignore[arg-type]
    async with simulator.serve(), open_session() as session:
        http = MeteredHttp(session, simulator.url, no_permit_needed, timeout_s, 2**26)
        yield Asked(simulator, providers()[name](Credentials(**secrets)), http)


class Asked:
    def __init__(self, simulator: Simulator, provider: Provider, http: MeteredHttp) -> None:
        self.simulator, self.provider, self.http = simulator, provider, http

    async def __call__(self, call: FetchCall, now: datetime = NOW) -> Answer:
        return await self.provider.fetch(call, self.http, now)

    async def verdict(self, call: FetchCall) -> Verdict:
        """Of the first symbol."""
        try:
            answer = await self(call)
        except ProviderError as error:
            return error.verdict
        if call.symbols[0] in answer.failed:
            return answer.failed[call.symbols[0]].verdict
        rows = sum(len(event.at) for event in answer.events if isinstance(event, PriceBars))
        return Verdict.NOT_FOUND if not answer.events else Verdict.EMPTY if not rows else pytest.fail(f"data: {answer}")


def expected(symbol: str, timeframe: Timeframe, days: tuple[date, date], basis: str) -> dict[datetime, tuple[float, ...]]:
    bars = SimulatedMarket(NOW).bars(symbol, timeframe, days[0], days[1] - timedelta(days=1), split_adjusted=basis != "raw")
    return {bar.at: (*bar.prices.values(), bar.volume) for bar in bars}


def columns(events: list[PriceBars]) -> dict[datetime, tuple[float, ...]]:
    return {row[0]: row[1:] for e in events for row in zip(e.at, e.open, e.high, e.low, e.close, e.volume, strict=True)}


@pytest.mark.parametrize(("name", "timeframe"), list(bar_cases()))
async def test_bars_of_several_symbols_come_back_as_the_made_up_market_has_them(name: str, timeframe: Timeframe):
    days = DAYS if timeframe not in LENGTHS else (date(2026, 3, 5), date(2026, 3, 10))
    symbols = ("AAPL", "BRK.B", "DEAD1", "MSFT")
    async with played(name) as asked:
        size = providers()[name].profile.symbols_per_call.get("bars", 1)
        for symbol in symbols if size < len(symbols) else (symbols,):
            group = (symbol,) if isinstance(symbol, str) else symbol
            answer = await asked(FetchCall("bars", group, timeframe, *days))
            for each in group:
                events = [e for e in answer.events if isinstance(e, PriceBars) and e.symbol == each]
                found = columns(events)
                if each == "DEAD1":
                    assert not found
                    continue
                wanted = expected(each, timeframe, days, events[0].basis)
                assert found.keys() == wanted.keys() and found
                for at, row in found.items():
                    assert row == pytest.approx(wanted[at], rel=2e-7, abs=1e-5), at
        assert not asked.simulator.quota.violations


async def test_the_simulators_market_is_the_synthetic_providers():
    call = FetchCall("bars", ("AAPL", "BRK.B"), "15m", *DAYS)
    answer = await providers()["synthetic"](Credentials()).fetch(call, None, NOW)  # type: ignore[arg-type]
    for symbol in call.symbols:
        own = columns([e for e in answer.events if isinstance(e, PriceBars) and e.symbol == symbol])
        assert own == expected(symbol, "15m", DAYS, "raw")


@pytest.mark.parametrize("name", offering("bars"))
async def test_a_split_is_in_the_prices_where_the_vendor_adjusts_for_it(name: str):
    symbol, day, ratio = next(
        (symbol, action.date, action.value)
        for symbol in (f"A{letter}" for letter in "BCDEFGHIJKLMNOPQRSTUVW")
        for action in SimulatedMarket(NOW).actions(symbol)
        if action.kind == "split" and action.date < NOW.date()
    )
    days = (day - timedelta(days=10), day + timedelta(days=5))
    async with played(name) as asked:
        [*events] = (await asked(FetchCall("bars", (symbol,), "1d", *days))).events
    assert isinstance(events[0], PriceBars)
    before, on_it = (
        next(c for at, c in zip(events[0].at, events[0].close, strict=True) if at.date() == d) for d in _about(events[0], day)
    )
    assert (before / on_it > ratio * 0.8) == (events[0].basis == "raw")
    assert columns(events) == {
        at: pytest.approx(row, rel=2e-7, abs=1e-5) for at, row in expected(symbol, "1d", days, events[0].basis).items()
    }


def _about(event: PriceBars, day: date) -> tuple[date, date]:
    """The session before the day, and the day."""
    return max(at.date() for at in event.at if at.date() < day), day


@pytest.mark.parametrize("name", offering("bars"))
async def test_the_latest_bars_end_with_the_newest(name: str):
    async with played(name) as asked:
        answer = await asked(FetchCall("bars", ("AAPL",), "1d"))
    [event] = answer.events
    assert isinstance(event, PriceBars)
    assert event.at[-1].date() in (NOW.date(), NOW.date() - timedelta(days=1))
    assert len(event.at) >= 100
    if name != "tiingo":
        assert event.final[:-1] == [True] * (len(event.at) - 1)


@pytest.mark.parametrize("name", offering("quote"))
async def test_quotes_of_several_symbols_come_back_each_with_its_own_price(name: str):
    symbols = ("AAPL", "DEAD1", "BRK.B")
    async with played(name) as asked:
        size = providers()[name].profile.symbols_per_call.get("quote", 1)
        answers = [await asked(FetchCall("quote", symbols[i : i + size])) for i in range(0, 3, size)]
    quotes = {event.symbol: event for answer in answers for event in answer.events if isinstance(event, PriceQuote)}
    assert quotes.keys() == {"AAPL", "BRK.B"}
    # What Databento sells without a live licence is a quarter of an hour old, and of a minute's end.
    at = NOW.replace(second=0) - timedelta(minutes=16) if name == "databento" else NOW
    for symbol, quote in quotes.items():
        assert quote.price == pytest.approx(SimulatedMarket(at).quote(symbol).price)
        assert quote.price and (quote.bid is None or quote.bid < quote.price) and (quote.ask is None or quote.price < quote.ask)
        if quote.previous_close is not None:
            assert quote.previous_close == pytest.approx(SimulatedMarket(NOW).quote(symbol).previous_close)


@pytest.mark.parametrize("name", offering("chain"))
async def test_a_chain_comes_back_contract_by_contract_and_a_sentinel_as_unknown(name: str):
    async with played(name) as asked:
        events = (await asked(FetchCall("chain", ("AAPL",)))).events
    assert all(isinstance(event, PriceChain) for event in events)
    found = {
        (event.expiry[i], event.strike[i], event.right[i]): (event, i)
        for event in events
        if isinstance(event, PriceChain)
        for i in range(len(event.contract))
    }
    at = NOW.replace(second=0) - timedelta(minutes=16) if name == "databento" else NOW
    wanted = {(row.expiry, row.strike, row.right): row for row in SimulatedMarket(at).chain("AAPL")}
    assert found.keys() == wanted.keys()
    assert {row.bid is None for row in wanted.values()} == {True, False}
    told = False
    for key, (event, i) in found.items():
        row = wanted[key]
        assert (event.bid[i], event.ask[i]) == (pytest.approx(row.bid), pytest.approx(row.ask)), key
        for column, value in ((event.iv, row.iv), (event.delta, row.delta), (event.theta, row.theta)):
            assert column[i] is None or column[i] == pytest.approx(value, abs=1e-5), key
            told = told or column[i] is not None
    # Databento sells no greeks.
    assert told == (name != "databento")


@pytest.mark.parametrize("name", offering("actions"))
async def test_splits_and_dividends_come_back_on_their_days(name: str):
    market = SimulatedMarket(NOW)
    symbols = [f"B{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVW"]
    symbol = next(s for s in symbols if {action.kind for action in market.actions(s)} == {"split", "dividend"})
    call = FetchCall("actions", (symbol,), start=date(2019, 1, 1), end=date(2026, 3, 1))
    async with played(name) as asked:
        [event] = (await asked(call)).events
    assert isinstance(event, PriceActions)
    wanted = market.actions(symbol, date(2019, 1, 1), date(2026, 2, 28))
    assert list(zip(event.date, event.kind, strict=True)) == [(action.date, action.kind) for action in wanted]
    for action, ratio, amount in zip(wanted, event.ratio, event.amount, strict=True):
        # Yahoo's dividends are adjusted for later splits, all others' are as they were paid.
        factor = market.split_factor(symbol, action.date) if name == "yahoo" else 1.0
        assert (ratio or amount) == pytest.approx(action.value if ratio else action.value / factor, rel=1e-6)


PAYWALLS = [name for name in offering("bars") if name != "yahoo"]
NO_WORD_OF_THE_UNKNOWN = {"finnhub": Verdict.EMPTY, "alpaca": Verdict.EMPTY, "polygon": Verdict.EMPTY}


@pytest.mark.parametrize("name", offering("bars"))
async def test_an_unknown_symbol_is_told_as_the_vendor_tells_it(name: str):
    async with played(name) as asked:
        verdict = await asked.verdict(FetchCall("bars", ("DEAD1",), "1d"))
    assert verdict is NO_WORD_OF_THE_UNKNOWN.get(name, Verdict.NOT_FOUND)


@pytest.mark.parametrize("name", PAYWALLS)
async def test_a_symbol_of_a_larger_plan_is_refused_for_the_plan(name: str):
    async with played(name) as asked:
        assert await asked.verdict(FetchCall("bars", ("PAID1",), "1d")) is Verdict.PLAN_RESTRICTED


@pytest.mark.parametrize("name", PAYWALLS)
@pytest.mark.parametrize("key", ["", "wrong"])
async def test_a_wrong_or_missing_key_is_refused(name: str, key: str):
    async with played(name, secrets=dict.fromkeys(SECRETS, key)) as asked:
        assert await asked.verdict(FetchCall("bars", ("AAPL",), "1d")) is Verdict.UNAUTHORIZED


@pytest.mark.parametrize("name", offering("bars"))
async def test_a_request_too_many_is_refused_and_counted(name: str):
    windows = ("per_second", "per_hour") if name == "schwab" else ("per_second",)
    async with played(name, limits=Limits(**dict.fromkeys(windows, 2))) as asked:
        verdicts = set()
        for _ in range(3):
            try:
                await asked(FetchCall("bars", ("AAPL",), "1d"))
            except ProviderError as error:
                verdicts.add(error.verdict)
        assert verdicts == {Verdict.RATE_LIMITED}
        assert asked.simulator.quota.violations
        told = asked.simulator.report()
        assert told.outcomes["throttled"] == len(told.violations)


# With this seed the first four faults are one of each kind.
SEED = 24
FAULTS = {"error": Verdict.SERVER_ERROR, "page": Verdict.MALFORMED, "cut": Verdict.SERVER_ERROR, "hang": Verdict.TIMEOUT}


@pytest.mark.parametrize("name", offering("bars"))
async def test_a_fault_of_any_kind_is_a_fault_of_the_vendor(name: str):
    async with played(name, timeout_s=1.0, faults=1.0, seed=SEED) as asked:
        verdicts = [await asked.verdict(FetchCall("bars", ("AAPL",), "1d")) for _ in FAULTS]
        outcomes = [call.outcome for call in asked.simulator.report().calls]
    assert set(outcomes) == set(FAULTS)
    assert verdicts == [FAULTS[outcome] for outcome in outcomes]


PAGES: dict[str, tuple[Timeframe, int, int]] = {
    # Timeframe, days back, requests that takes.
    "marketstack": ("1d", 1800, 2),
    "twelvedata": ("1m", 24, 2),
    "finnhub": ("15m", 70, 3),
    "fmp": ("15m", 70, 3),
    "tiingo": ("15m", 220, 3),
    "alpaca": ("1m", 40, 2),
    "polygon": ("1m", 200, 2),
    "yahoo": ("1m", 10, 2),
    "alpha_vantage": ("15m", 70, 4),
}


@pytest.mark.parametrize("name", [name for name in PAGES if name in NAMES])
async def test_pages_and_windows_are_followed_to_the_end(name: str):
    timeframe, back, requests = PAGES[name]
    days = (NOW.date() - timedelta(days=back), NOW.date())
    async with played(name, timeout_s=20.0) as asked:
        events = (await asked(FetchCall("bars", ("AAPL",), timeframe, *days))).events
        assert asked.simulator.report().count == requests
    bars = [event for event in events if isinstance(event, PriceBars)]
    wanted = expected("AAPL", timeframe, days, bars[0].basis)
    found = columns(bars)
    assert found.keys() == wanted.keys()
    assert [row[3] for row in found.values()] == pytest.approx([row[3] for row in wanted.values()], rel=2e-7, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in offering("bars") if name not in ("marketstack", "databento", "schwab")])
async def test_pairs_of_currencies_come_back_too(name: str):
    pair = "BTC/USD" if name == "alpaca" else "EUR/USD"  # Alpaca has only the rates of now of currencies
    async with played(name) as asked:
        events = (await asked(FetchCall("bars", (pair,), "1d", *DAYS))).events
        quotes = (await asked(FetchCall("quote", (pair,)))).events if name != "finnhub" else []
    found = columns([event for event in events if isinstance(event, PriceBars)])
    wanted = expected(pair, "1d", DAYS, "raw")
    assert found.keys() == wanted.keys()
    for at, row in found.items():
        assert row[:4] == pytest.approx(wanted[at][:4], rel=2e-7, abs=1e-5)
    assert all(q.price == pytest.approx(SimulatedMarket(NOW).quote(pair).price) for q in quotes if isinstance(q, PriceQuote))


async def test_what_was_asked_is_told_without_the_key():
    async with played("tiingo") as asked:
        await asked(FetchCall("quote", ("AAPL", "MSFT")))
        url = f"{asked.simulator.url}/_quotebus/calls"
        async with open_session() as session, session.get(url) as response:
            told = await response.json()
    assert (told["provider"], told["count"], told["outcomes"], told["violations"]) == ("tiingo", 1, {"ok": 1}, [])
    assert (told["calls"][0]["path"], told["calls"][0]["symbols"]) == ("/iex/", ["AAPL", "MSFT"])
    assert SECRETS["api_key"] not in str(told)
