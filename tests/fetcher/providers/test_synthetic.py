"""The made-up market: the same for everybody, whole in every timeframe, closed when markets are."""

import math
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.message import TIMEFRAMES, Dataset, Timeframe
from contracts.price_events import MAX_ROWS, PriceActions, PriceBars, PriceQuote
from services.fetcher.adapter.fields import LENGTHS, period_start
from services.fetcher.provider import Credentials, FetchCall, ProviderError, Reply, Verdict
from services.fetcher.providers.synthetic import PROVIDER
from services.fetcher.providers.synthetic.market import instrument

NOON = datetime(2026, 11, 20, 17, 33, 21, 5000, tzinfo=UTC)  # a Friday, 12:33 in New York
SUNDAY = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
# What AAPL cost at NOON. Whoever changes the market changes everybody's stored prices, so these figures are kept.
PINNED = (38.43, 38.42, 43308.0)


class Nobody:
    """There is no server behind this provider, so any call is a fault."""

    async def get(self, path: str, params: object = None, headers: object = None, cost: int = 1) -> Reply:
        raise AssertionError(path)

    async def post_form(self, path: str, form: Mapping[str, str], headers: object = None, cost: int = 1) -> Reply:
        raise AssertionError(path)


async def ask(call: FetchCall, now: datetime = NOON, **options: str | float):
    return await PROVIDER(Credentials(options=options)).fetch(call, Nobody(), now)


async def bars(symbol: str, timeframe: Timeframe, span: tuple[date, date] | None = None, now: datetime = NOON) -> list[PriceBars]:
    start, end = span or (None, None)
    answer = await ask(FetchCall("bars", (symbol,), timeframe, start, end), now)
    assert not answer.failed
    return list(answer.events)


async def quote(symbol: str, now: datetime = NOON) -> PriceQuote:
    [event] = (await ask(FetchCall("quote", (symbol,)), now)).events
    return event


def folded(event: PriceBars, groups: Mapping[datetime, list[int]]) -> list[tuple[float, ...]]:
    return [
        (
            event.open[rows[0]],
            max(event.high[i] for i in rows),
            min(event.low[i] for i in rows),
            event.close[rows[-1]],
            sum(event.volume[i] for i in rows),
        )
        for rows in groups.values()
    ]


def as_rows(event: PriceBars) -> list[tuple[float, ...]]:
    return list(zip(event.open, event.high, event.low, event.close, event.volume, strict=True))


symbols = st.sampled_from(["AAPL", "BRK.B", "^GSPC", "BTC-USD", "EURUSD=X", "SPY", "O:SPY251219C00650000"])
days = st.dates(date(1955, 1, 1), date(2090, 1, 1))


@settings(max_examples=15, deadline=None)
@given(symbols, days, st.integers(1, 3 * 86400))
async def test_every_timeframe_is_made_of_the_minutes_exactly(symbol: str, day: date, later_s: int):
    """Also while the session is on: then of the minutes so far."""
    now = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=later_s)
    span = (day, day + DAY)
    minutes = await bars(symbol, "1m", span, now)
    [one_day] = await bars(symbol, "1d", span, now)
    assert sum(len(event.at) for event in minutes) <= 1440
    [minute] = minutes
    for timeframe in ("5m", "15m", "30m", "1h"):
        [longer] = await bars(symbol, timeframe, span, now)
        groups: dict[datetime, list[int]] = {}
        for i, at in enumerate(minute.at):
            groups.setdefault(minute.at[0] + (at - minute.at[0]) // LENGTHS[timeframe] * LENGTHS[timeframe], []).append(i)
        assert longer.at == list(groups)
        assert as_rows(longer) == folded(minute, groups)
    assert as_rows(one_day) == (folded(minute, {now: list(range(len(minute.at)))}) if minute.at else [])
    for o, h, low, c, volume in as_rows(minute):
        assert 0 < low <= min(o, c) <= max(o, c) <= h
        assert volume >= 0


@pytest.mark.parametrize("timeframe", ["1wk", "1mo"])
@pytest.mark.parametrize("symbol", ["AAPL", "BTC-USD"])
async def test_weeks_and_months_are_made_of_the_days_exactly(timeframe: Timeframe, symbol: str):
    [longer] = await bars(symbol, timeframe, (date(2026, 3, 11), date(2026, 11, 20)))
    first = longer.at[0].date()
    assert first == period_start(date(2026, 3, 11), timeframe)
    [day] = await bars(symbol, "1d", (first, date(2026, 12, 1)))
    groups: dict[datetime, list[int]] = {}
    for i, at in enumerate(day.at):
        start = period_start(at.date(), timeframe)
        groups.setdefault(datetime(start.year, start.month, start.day, tzinfo=UTC), []).append(i)
    assert longer.at == list(groups)
    assert as_rows(longer) == folded(day, groups)
    assert longer.final == [True] * (len(longer.at) - 1) + [False]


@settings(max_examples=15, deadline=None)
@given(symbols, days, st.integers(0, 86399))
async def test_a_quote_is_the_close_of_the_minute_that_is_under_way(symbol: str, day: date, second: int):
    now = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=second)
    found = await quote(symbol, now)
    assert found.at is not None
    assert found.at <= now
    day = found.at.date() if found.at.time() > datetime.min.time() else found.at.date() - DAY
    *_, minute = await bars(symbol, "1m", (day, day + DAY), now)
    assert found.price == minute.close[-1]
    assert found.volume == sum(minute.volume)
    assert found.bid is None or found.bid < found.price < (found.ask or math.inf)


async def test_the_market_is_the_same_in_every_process_and_for_ever():
    found = await quote("AAPL")
    code = (
        "import asyncio;from datetime import *;from services.fetcher.provider import *;"
        "from services.fetcher.providers.synthetic import PROVIDER;"
        f"a=asyncio.run(PROVIDER(Credentials()).fetch(FetchCall('quote',('AAPL',)),None,datetime.fromisoformat('{NOON.isoformat()}')));"
        "e=a.events[0];print(e.price,e.previous_close,e.volume)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert said.stdout.split() == [str(found.price), str(found.previous_close), str(found.volume)]
    assert (found.price, found.previous_close, found.volume) == PINNED


async def test_another_seed_is_another_market():
    call = FetchCall("quote", ("AAPL",))
    prices = {(await ask(call, seed=seed)).events[0].price for seed in (0, 1, "2")}
    assert len(prices) == 3


async def test_shares_rest_at_night_on_weekends_and_on_holidays():
    [minute] = await bars("AAPL", "1m", (date(2026, 11, 20), date(2026, 11, 23)), SUNDAY)
    assert (minute.at[0], minute.at[-1]) == (datetime(2026, 11, 20, 14, 30, tzinfo=UTC), datetime(2026, 11, 20, 20, 59, tzinfo=UTC))
    assert len(minute.at) == 390
    [summer] = await bars("AAPL", "1h", (date(2026, 7, 2), date(2026, 7, 3)))
    assert summer.at[0] == datetime(2026, 7, 2, 13, 30, tzinfo=UTC)
    [closed] = await bars("AAPL", "1d", (date(2025, 12, 25), date(2025, 12, 26)))
    assert closed.at == []
    last = await quote("AAPL", SUNDAY)
    assert (last.at, last.price) == (datetime(2026, 11, 20, 21, tzinfo=UTC), minute.close[-1])


async def test_crypto_moves_on_a_sunday():
    prices = {(await quote("BTC-USD", SUNDAY + timedelta(seconds=n))).price for n in range(120)}
    assert len(prices) > 5
    [day] = await bars("BTC-USD", "1d", (date(2026, 11, 16), date(2026, 11, 23)), SUNDAY)
    assert len(day.at) == 7
    assert day.open[1:] == day.close[:-1]


async def test_a_closed_markets_first_second_of_the_day_still_tells_the_close_before():
    opens = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    before, after = await quote("AAPL", opens), await quote("AAPL", opens + timedelta(seconds=1))
    assert before.at == datetime(2026, 11, 19, 21, tzinfo=UTC)
    assert after.at == opens + timedelta(seconds=1)
    assert after.previous_close == before.price


async def test_raw_prices_drop_by_the_ratio_on_the_day_of_a_split_and_actions_say_so():
    symbol = next(name for n in range(100) if (found := instrument(name := f"S{n}")) and found.split)
    ex_date, ratio = instrument(symbol).split
    [event] = (await ask(FetchCall("actions", (symbol,), None, ex_date, ex_date + DAY))).events
    assert isinstance(event, PriceActions)
    assert [(d, r) for d, r, kind in zip(event.date, event.ratio, event.kind, strict=True) if kind == "split"] == [(ex_date, ratio)]
    [day] = await bars(symbol, "1d", (ex_date - 10 * DAY, ex_date + DAY))
    assert day.at[-1].date() == ex_date
    assert 0.85 < day.close[-1] * ratio / day.close[-2] < 1.15
    found = await quote(symbol, datetime(ex_date.year, ex_date.month, ex_date.day, 18, tzinfo=UTC))
    assert abs(found.previous_close * ratio - day.close[-2]) <= ratio * 0.01


async def test_dividends_come_once_a_quarter_on_days_of_trade():
    symbol = next(name for n in range(100) if (found := instrument(name := f"S{n}")) and found.dividend_yield and not found.split)
    [event] = (await ask(FetchCall("actions", (symbol,), None, date(2024, 1, 1), date(2026, 1, 1)))).events
    assert len(event.date) == 8
    assert all(amount and amount > 0 for amount in event.amount)
    assert all(instrument(symbol).trades_on(day) for day in event.date)


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
@pytest.mark.parametrize("symbol", ["AAPL", "BTC-USD"])
async def test_the_latest_bars_are_the_newest_500_and_none_of_the_future(symbol: str, timeframe: Timeframe):
    for now in (NOON, SUNDAY, datetime(2026, 11, 23, 14, 30, 1, tzinfo=UTC)):
        [event] = await bars(symbol, timeframe, None, now)
        assert len(event.at) == 500
        assert event.at[-1] <= now
        assert all(event.final[:-1])
        assert (event.asked_from, event.asked_to) == (None, None)
    assert not event.final[-1]


async def test_a_long_answer_comes_in_events_that_share_out_the_range():
    start, end = date(2026, 11, 2), date(2026, 11, 14)
    events = await bars("AAPL", "1m", (start, end))
    assert [len(event.at) for event in events] == [MAX_ROWS, 10 * 390 - MAX_ROWS]
    first, second = events
    assert (first.asked_from, second.asked_to) == (datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 14, tzinfo=UTC))
    assert first.asked_to == second.asked_from == second.at[0]


async def test_a_range_ahead_of_time_is_empty_and_an_endless_one_is_refused():
    [event] = await bars("AAPL", "1d", (date(2030, 1, 1), date(2030, 2, 1)))
    assert event.at == []
    answer = await ask(FetchCall("bars", ("AAPL",), "1m", date(1, 1, 1), date(9999, 12, 31)))
    assert answer.failed["AAPL"].verdict is Verdict.BAD_REQUEST
    [event, *_] = await bars("AAPL", "1d", (date(1, 1, 1), date(9999, 12, 31)))
    assert event.at[0].date() == date(1950, 1, 2)


async def test_events_say_that_they_are_made_up():
    found = await quote("BRK.B")
    [event] = await bars("BRK.B", "1d")
    for each in (found, event):
        assert (each.provider, each.feed, each.symbol, each.currency) == ("synthetic", "synthetic", "BRK.B", "USD")
    assert PROVIDER.profile.real is False
    assert (await quote("EUR/JPY")).currency == "JPY"


@pytest.mark.parametrize("symbol", ["ZZTOP", "ZZ", "aapl", "", "A" * 21, "A B", "Ä"])
@pytest.mark.parametrize("dataset", ["bars", "quote", "actions"])
async def test_what_is_no_symbol_is_not_found_and_spares_the_others(symbol: str, dataset: Dataset):
    answer = await ask(FetchCall(dataset, (symbol, "AAPL")))
    assert {name: error.verdict for name, error in answer.failed.items()} == {symbol: Verdict.NOT_FOUND}
    assert [event.symbol for event in answer.events] == ["AAPL"]


async def test_what_it_does_not_offer_is_a_bad_request():
    with pytest.raises(ProviderError) as refused:
        await ask(FetchCall("iv", ("AAPL",)))
    assert refused.value.verdict is Verdict.BAD_REQUEST


async def test_shares_have_options_whose_prices_fit_the_share_and_pairs_have_none():
    [chain] = (await ask(FetchCall("chain", ("AAPL",)))).events
    [quote] = (await ask(FetchCall("quote", ("AAPL",)))).events
    deep = [
        mark for mark, delta in zip(chain.mark, chain.delta, strict=True) if mark is not None and delta is not None and delta > 0.97
    ]
    assert quote.price is not None
    assert all(0 < mark < quote.price for mark in deep)
    assert len(set(chain.expiry)) == 6
    assert (await ask(FetchCall("chain", ("BTC-USD",)))).events[0].contract == []


async def test_a_fault_rate_lets_that_share_of_calls_and_symbols_fail_always_the_same_ones():
    names = tuple(f"S{n}" for n in range(10))

    async def outcome(second: int) -> list[tuple[str, str]]:
        try:
            answer = await ask(FetchCall("quote", names), NOON + timedelta(seconds=second), fault_rate=0.3)
        except ProviderError as error:
            return [("call", error.verdict)]
        return [(name, error.verdict) for name, error in answer.failed.items()]

    outcomes = [await outcome(second) for second in range(60)]
    assert outcomes == [await outcome(second) for second in range(60)]
    whole = [faults[0][1] for faults in outcomes if faults and faults[0][0] == "call"]
    single = [verdict for faults in outcomes for name, verdict in faults if name != "call"]
    assert 8 <= len(whole) <= 28
    assert set(whole) == {Verdict.RATE_LIMITED, Verdict.SERVER_ERROR, Verdict.TIMEOUT}
    assert 0.2 < len(single) / (10 * (60 - len(whole))) < 0.4
    with pytest.raises(ProviderError):
        await ask(FetchCall("quote", names), fault_rate="1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fault_rate": 2.0}, "providers.synthetic.options.fault_rate: 2.0; give a number from 0 to 1"),
        ({"latency_s": "long"}, "providers.synthetic.options.latency_s: 'long'; give a number from 0 to 3600"),
        ({"speed": 1.0}, "providers.synthetic.options.speed: no such option"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options: dict[str, str | float], said: str):
    with pytest.raises(ValueError, match="options") as refused:
        PROVIDER(Credentials(options=options))
    assert str(refused.value).startswith(said)
