from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceBars, PriceChain, PriceQuote
from services.fetcher.provider import Credentials, FetchCall, Verdict
from services.fetcher.providers.alpha_vantage import AlphaVantage
from tests.fetcher.fake_vendor import Asking, FakeVendor, at, reply

KEY = "CANARY7F3A"
NOW = datetime(2024, 3, 15, 18, 0, tzinfo=UTC)
PREMIUM = "Thank you! This is a premium endpoint. You may subscribe to any of the premium plans to unlock all premium endpoints"
SPENT = f"We have detected your API key as {KEY} and our standard API rate limit is 25 requests per day. Please go premium"
TOO_FAST = (
    "Please consider spreading out your free API requests more sparingly (1 request per second). You may subscribe to any of "
    "the premium plans to lift the free key rate limit (25 requests per day), and instantly unlock all premium endpoints"
)
FULL_IS_PREMIUM = "The outputsize=full parameter value is a premium feature for the TIME_SERIES_DAILY endpoint."
SAMPLE = {
    "endpoint": "Realtime Options",
    "message": "This is a premium endpoint. THE SAMPLE DATA BELOW IS ARTIFICIAL.",
    "data": [
        {
            "contractID": "XXX999999C00001000",
            "symbol": "XXX",
            "expiration": "2099-99-99",
            "strike": "1.00",
            "type": "call",
            "bid": "9.00",
        }
    ],
}


def provider(**options: str | float) -> AlphaVantage:
    return AlphaVantage(Credentials(api_key=KEY, options=options))


def series(key: str, rows: dict[str, list[str]], zone: str = "US/Eastern") -> dict[str, Any]:
    names = ("1. open", "2. high", "3. low", "4. close", "5. volume")
    return {
        "Meta Data": {"2. Symbol": "ACME", "5. Time Zone": zone},
        key: {at: dict(zip(names, row, strict=False)) for at, row in rows.items()},
    }


DAY = series("Time Series (Daily)", {"2024-03-14": ["10", "12", "9", "11", "500"]})


ASKING = Asking(provider, NOW)
fetched, verdict_of = ASKING.fetched, ASKING.verdict_of


async def test_the_key_goes_where_the_vendor_wants_it_and_json_is_asked_for() -> None:
    _, vendor = await fetched(FetchCall("bars", ("BRK.B",), "1d"), DAY)
    assert vendor.asked[0].path == "/query"
    assert vendor.asked[0].params == {
        "function": "TIME_SERIES_DAILY",
        "symbol": "BRK-B",
        "outputsize": "compact",
        "datatype": "json",
        "apikey": KEY,
    }


@pytest.mark.parametrize(
    ("symbol", "timeframe", "function", "more"),
    [
        ("ACME", "1wk", "TIME_SERIES_WEEKLY_ADJUSTED", {"symbol": "ACME"}),
        ("ACME", "1mo", "TIME_SERIES_MONTHLY_ADJUSTED", {"symbol": "ACME"}),
        (
            "ACME",
            "1h",
            "TIME_SERIES_INTRADAY",
            {"interval": "60min", "adjusted": "false", "extended_hours": "false", "outputsize": "full"},
        ),
        ("EUR/USD", "1d", "FX_DAILY", {"from_symbol": "EUR", "to_symbol": "USD", "outputsize": "compact"}),
        ("EUR/USD", "1wk", "FX_WEEKLY", {}),
        ("EUR/USD", "5m", "FX_INTRADAY", {"interval": "5min"}),
        ("BTC/EUR", "1d", "DIGITAL_CURRENCY_DAILY", {"symbol": "BTC", "market": "EUR"}),
        ("BTC/EUR", "1mo", "DIGITAL_CURRENCY_MONTHLY", {}),
        ("BTC/EUR", "1m", "CRYPTO_INTRADAY", {"interval": "1min"}),
    ],
)
async def test_each_kind_of_series_has_its_function(symbol: str, timeframe: Timeframe, function: str, more: dict[str, str]) -> None:
    _, vendor = await fetched(FetchCall("bars", (symbol,), timeframe), series("Time Series", {}))
    assert vendor.asked[0].params["function"] == function
    assert vendor.asked[0].params.items() >= more.items()


async def test_an_old_range_asks_for_the_whole_series_a_new_one_for_the_last_hundred() -> None:
    for start, size in ((date(2023, 1, 2), "full"), (date(2024, 2, 1), "compact")):
        _, vendor = await fetched(FetchCall("bars", ("ACME",), "1d", start, date(2024, 3, 15)), DAY)
        assert vendor.asked[0].params["outputsize"] == size


async def test_a_plan_with_adjusted_series_uses_them_for_days_too() -> None:
    vendor = FakeVendor(
        "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n2024-03-14,10,12,9,11,10.5,500,0.0,1.0"
    )
    answer = await provider(adjusted=1).fetch(FetchCall("bars", ("ACME",), "1d"), vendor, NOW)
    assert vendor.asked[0].params["function"] == "TIME_SERIES_DAILY_ADJUSTED"
    assert isinstance(answer.events[0], PriceBars)
    assert (answer.events[0].basis, answer.events[0].adjusted_close) == ("raw", [10.5])


async def test_intraday_ranges_take_a_request_a_month_and_none_for_months_to_come() -> None:
    january = series("Time Series (5min)", {"2024-01-31 09:30:00": ["10", "12", "9", "11", "500"]})
    february = series("Time Series (5min)", {"2024-02-01 09:30:00": ["11", "12", "9", "11", "400"]})
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "5m", date(2024, 1, 31), date(2024, 2, 2)), january, february)
    assert [request.params["month"] for request in vendor.asked] == ["2024-01", "2024-02"]
    assert event.at == [at("2024-01-31 14:30"), at("2024-02-01 14:30")]
    assert event.feed == "delayed"
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "5m", date(2024, 1, 31), date(2025, 1, 1)), january)
    assert [request.params["month"] for request in vendor.asked] == ["2024-01", "2024-02", "2024-03"]
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "5m", date(2024, 3, 1), date(2024, 3, 2)), january)
    assert "month" not in vendor.asked[0].params


async def test_local_time_follows_daylight_saving() -> None:
    rows = {"2024-03-11 09:30:00": ["1", "1", "1", "1", "1"], "2024-03-08 09:30:00": ["1", "1", "1", "1", "1"]}
    (event,), _ = await fetched(
        FetchCall("bars", ("ACME",), "15m", date(2024, 3, 1), date(2024, 3, 12)), series("Time Series (15min)", rows)
    )
    assert event.at == [at("2024-03-08 14:30"), at("2024-03-11 13:30")]


async def test_a_period_is_labelled_by_its_beginning_and_the_open_one_is_not_final() -> None:
    rows = {
        "2024-03-14": ["3", "3", "3", "3", "3"],
        "2024-02-29": ["2", "2", "2", "2", "2"],
        "2024-01-31": ["1", "1", "1", "1", "1"],
    }
    (event,), _ = await fetched(
        FetchCall("bars", ("ACME",), "1mo", date(2024, 2, 10), date(2024, 3, 15)), series("Monthly Time Series", rows)
    )
    assert event.at == [at("2024-02-01"), at("2024-03-01")]
    assert event.final == [True, False]


async def test_adjusted_series_keep_their_volume_and_their_raw_prices() -> None:
    row = {
        "1. open": "10",
        "2. high": "12",
        "3. low": "9",
        "4. close": "11",
        "5. adjusted close": "10.5",
        "6. volume": "500",
        "7. dividend amount": "0.1",
    }
    (event,), _ = await fetched(
        FetchCall("bars", ("ACME",), "1wk"), {"Meta Data": {}, "Weekly Adjusted Time Series": {"2024-03-08": row}}
    )
    assert (event.close, event.adjusted_close, event.volume) == ([11.0], [10.5], [500.0])


async def test_crypto_prices_in_two_currencies_are_the_asked_ones() -> None:
    row = {
        "1a. open (EUR)": "10", "1b. open (USD)": "20", "2a. high (EUR)": "12", "2b. high (USD)": "22", "3a. low (EUR)": "9",
        "3b. low (USD)": "19", "4a. close (EUR)": "11", "4b. close (USD)": "21", "5. volume": "1.5", "6. market cap (USD)": "99",
    }  # fmt: skip
    (event,), _ = await fetched(
        FetchCall("bars", ("BTC/EUR",), "1d"), {"Meta Data": {}, "Time Series (Digital Currency Daily)": {"2024-03-14": row}}
    )
    assert (event.open, event.close, event.volume, event.currency) == ([10.0], [11.0], [1.5], "EUR")


async def test_a_row_without_prices_is_left_out() -> None:
    rows = {
        "2024-03-14": ["10", "12", "9", "11", "500"],
        "2024-03-13": ["None", "", "-", "nan", "0"],
        "garbage": ["1", "1", "1", "1", "1"],
    }
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), series("Time Series (Daily)", rows))
    assert event.at == [at("2024-03-14")]


async def test_an_unknown_zone_is_malformed() -> None:
    answer = series("Time Series (Daily)", {"2024-03-14": ["1"] * 5}, zone="Mars/Olympus")
    assert (await verdict_of(FetchCall("bars", ("ACME",), "1d"), answer)).verdict is Verdict.MALFORMED


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (
            {"Error Message": "Invalid API call. Please retry or visit the documentation (https://www.example.com/) for X."},
            Verdict.NOT_FOUND,
        ),
        ({"Error Message": "the parameter apikey is invalid or missing."}, Verdict.UNAUTHORIZED),
        ({"Note": "Our standard API call frequency is 5 calls per minute and 500 calls per day."}, Verdict.RATE_LIMITED),
        ({"Information": SPENT}, Verdict.RATE_LIMITED),
        ({"Information": TOO_FAST}, Verdict.RATE_LIMITED),
        ({"Information": PREMIUM}, Verdict.PLAN_RESTRICTED),
        ({"Information": FULL_IS_PREMIUM}, Verdict.PLAN_RESTRICTED),
        ({"Information": "The **demo** API key is for demo purposes only."}, Verdict.UNAUTHORIZED),
        ({"Information": "Happy new year"}, Verdict.MALFORMED),
        ({}, Verdict.NOT_FOUND),
        (SAMPLE, Verdict.PLAN_RESTRICTED),
        ({"endpoint": "Historical Options", "message": "No data for symbol ACME on this date.", "data": []}, Verdict.EMPTY),
        (f"Our {SPENT}", Verdict.RATE_LIMITED),
        ("<html><head><title>Oops</title></head></html>", Verdict.MALFORMED),
        (reply("<html>Bad gateway</html>", 502), Verdict.SERVER_ERROR),
        ('{"Meta Data": {"1. Inform', Verdict.MALFORMED),
    ],
)
@pytest.mark.parametrize("dataset", ["bars", "quote", "chain", "actions"])
async def test_every_way_to_fail_has_its_verdict_whatever_was_asked(dataset: Any, answer: object, verdict: Verdict) -> None:
    error = await verdict_of(FetchCall(dataset, ("ACME",), "1d" if dataset == "bars" else None), answer)
    assert error.verdict is verdict
    assert KEY not in error.message


async def test_the_shortest_limit_that_is_named_says_when_to_come_back() -> None:
    call = FetchCall("quote", ("ACME",))
    assert (await verdict_of(call, {"Information": TOO_FAST})).retry_at == datetime(2024, 3, 15, 18, 0, 1, tzinfo=UTC)
    assert (await verdict_of(call, {"Information": SPENT})).retry_at == datetime(2024, 3, 16, tzinfo=UTC)
    assert (await verdict_of(call, {"Note": "5 calls per minute"})).retry_at == datetime(2024, 3, 15, 18, 1, tzinfo=UTC)
    assert (await verdict_of(call, {"Note": "Please slow your call volume"})).retry_at is None


async def test_only_meta_data_is_a_range_without_bars() -> None:
    (event,), _ = await fetched(
        FetchCall("bars", ("ACME",), "1d", date(2024, 3, 9), date(2024, 3, 11)), {"Meta Data": {"2. Symbol": "ACME"}}
    )
    assert event.at == []
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), "timestamp,open,high,low,close,volume\r\n")
    assert event.at == []


@pytest.mark.parametrize(
    "answer",
    [
        "symbol,open,high,low,price,volume,latestDay,previousClose,change,changePercent\r\nACME,21.0,21.5,20.25,20.5,1300,2024-03-15,21.0,-0.5,-2.38%",
        {
            "Global Quote - DATA DELAYED BY 15 MINUTES": {
                "01. symbol": "ACME",
                "05. price": "20.5",
                "06. volume": "1300",
                "07. latest trading day": "2024-03-15",
                "08. previous close": "21.0",
            }
        },
    ],
)
async def test_a_quote_in_any_form_has_its_date_and_no_time_of_day(answer: object) -> None:
    (event,), _ = await fetched(FetchCall("quote", ("ACME",)), answer)
    assert isinstance(event, PriceQuote)
    assert (event.price, event.previous_close, event.volume, event.bid, event.ask) == (20.5, 21.0, 1300.0, None, None)
    assert (event.at, event.observed_at) == (at("2024-03-15"), NOW - timedelta(minutes=15))


@pytest.mark.parametrize(
    "answer", [{"Global Quote": {}}, {"Global Quote": {"05. price": "0.0000"}}, "symbol,open,high,low,price\r\n"]
)
async def test_a_quote_without_a_price_is_not_found(answer: object) -> None:
    assert (await verdict_of(FetchCall("quote", ("NOSUCH",)), answer)).verdict is Verdict.NOT_FOUND


async def test_the_quote_of_a_pair_is_its_exchange_rate() -> None:
    rate = {
        "5. Exchange Rate": "1.08850000",
        "6. Last Refreshed": "2024-03-15 17:59:30",
        "7. Time Zone": "UTC",
        "8. Bid Price": "1.0884",
        "9. Ask Price": "-",
    }
    (event,), vendor = await fetched(FetchCall("quote", ("EUR/USD",)), {"Realtime Currency Exchange Rate": rate})
    assert vendor.asked[0].params["from_currency"] == "EUR"
    assert (event.price, event.bid, event.ask, event.currency) == (1.0885, 1.0884, None, "USD")
    assert event.at == event.observed_at == datetime(2024, 3, 15, 17, 59, 30, tzinfo=UTC)


async def test_a_dead_contract_has_neither_prices_nor_greeks() -> None:
    header = (
        "contractID,symbol,expiration,strike,type,last,mark,bid,bid_size,ask,ask_size,volume,open_interest,date,"
        "implied_volatility,delta,gamma,theta,vega,rho"
    )
    row = "A1,ACME,2024-03-15,115.00,put,0.00,0.01,0.00,0,0.25,5,0,9,2024-03-15,0.00000,-0.00000,0.00000,0.00000,0.00000,-0.00000"
    (event,), _ = await fetched(FetchCall("chain", ("ACME",)), f"{header}\r\n{row}\r\n")
    assert isinstance(event, PriceChain)
    assert (event.last, event.bid, event.mark, event.ask) == ([None], [None], [0.01], [0.25])
    assert (event.iv, event.delta, event.gamma, event.theta, event.vega) == (([None],) * 5)
    assert (event.right, event.volume, event.open_interest, event.at) == (["put"], [0.0], [9.0], [at("2024-03-15")])


async def test_a_long_chain_comes_in_numbered_parts() -> None:
    rows = [
        {"contractID": f"C{i}", "expiration": "2024-03-22", "strike": "1.0", "type": "call", "date": "2024-03-15"}
        for i in range(2001)
    ]
    events, _ = await fetched(FetchCall("chain", ("ACME",)), {"message": "success", "data": rows})
    assert [(event.part, event.parts, len(event.contract)) for event in events] == [(1, 2, 2000), (2, 2, 1)]


async def test_splits_and_dividends_are_two_requests_of_one_answer() -> None:
    splits = "effective_date,split_factor\r\n2024-01-22,1.5\r\n"
    dividends = {
        "symbol": "ACME",
        "data": [{"ex_dividend_date": "2023-11-09", "amount": "0.35"}, {"ex_dividend_date": "None", "amount": "1"}],
    }
    (event,), vendor = await fetched(FetchCall("actions", ("ACME",)), splits, dividends)
    assert [request.params["function"] for request in vendor.asked] == ["SPLITS", "DIVIDENDS"]
    assert (event.date, event.ratio, event.amount) == ([date(2023, 11, 9), date(2024, 1, 22)], [None, 1.5], [0.35, None])


async def test_who_never_split_is_not_unknown() -> None:
    dividends = {"symbol": "ACME", "data": [{"ex_dividend_date": "2023-11-09", "amount": "0.35"}]}
    (event,), _ = await fetched(FetchCall("actions", ("ACME",)), {}, dividends)
    assert event.amount == [0.35]
    assert (await verdict_of(FetchCall("actions", ("NOSUCH",)), {}, {})).verdict is Verdict.NOT_FOUND


@pytest.mark.parametrize("dataset", ["chain", "actions"])
async def test_a_pair_has_neither_options_nor_actions_and_no_call_is_spent_on_it(dataset: Any) -> None:
    vendor = FakeVendor({})
    answer = await provider().fetch(FetchCall(dataset, ("EUR/USD",)), vendor, NOW)
    assert answer.failed["EUR/USD"].verdict is Verdict.BAD_REQUEST
    assert not vendor.asked
