from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceActions, PriceBars, PriceQuote
from services.fetcher.provider import Credentials, FetchCall, Verdict
from services.fetcher.providers.fmp import Fmp
from tests.fetcher.fake_vendor import Asking, FakeVendor, at, reply

KEY = "canary-7f3a"
NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)
ACME = {"symbol": "ACME", "price": 20.5, "previousClose": 20.4, "volume": 1300, "timestamp": 1710526800}
LIMIT = "Limit Reach . Please upgrade, see https://site.example.com/pricing"
INVALID = "Invalid API KEY. Create a free one at https://site.example.com/register"
PREMIUM = "Premium Query Parameter: 'Special Endpoint : this 'symbol' is beyond your subscription'"
EXCLUSIVE = "Exclusive Endpoint : This endpoint is not available in your plan"
LEGACY = "Legacy Endpoint : only for users of before August 31, 2025"


def provider(**options: str | float) -> Fmp:
    return Fmp(Credentials(api_key=KEY, options=options))


def row(day: str, close: float = 11.0, **more: object) -> dict[str, object]:
    return {"date": day, "open": 10.0, "high": 12.0, "low": 9.0, "close": close, "volume": 500, **more}


ASKING = Asking(provider, NOW)
fetched, verdict_of = ASKING.fetched, ASKING.verdict_of


async def test_the_key_travels_in_a_header() -> None:
    _, vendor = await fetched(FetchCall("bars", ("BRK.B",), "1d"), [row("2024-03-14")])
    assert vendor.asked[0].headers == {"apikey": KEY}
    assert vendor.asked[0].params == {"symbol": "BRK-B", "from": "2022-03-06"}
    assert KEY not in str(vendor.asked[0].params)


@pytest.mark.parametrize(
    ("symbol", "ticker"),
    [
        ("AAPL", "AAPL"),
        ("BRK.B", "BRK-B"),
        ("VOD.L", "VOD.L"),
        ("7203.T", "7203.T"),
        ("^GSPC", "^GSPC"),
        ("EUR/USD", "EURUSD"),
        ("btcusd", "BTCUSD"),
        ("GCUSD", "GCUSD"),
    ],
)
def test_every_market_is_under_one_spelling(symbol: str, ticker: str) -> None:
    assert provider().to_vendor(symbol) == ticker


@pytest.mark.parametrize(
    ("timeframe", "path"),
    [
        ("1m", "/stable/historical-chart/1min"),
        ("5m", "/stable/historical-chart/5min"),
        ("15m", "/stable/historical-chart/15min"),
        ("30m", "/stable/historical-chart/30min"),
        ("1h", "/stable/historical-chart/1hour"),
        ("1d", "/stable/historical-price-eod/full"),
    ],
)
async def test_each_timeframe_has_its_path(timeframe: Timeframe, path: str) -> None:
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), timeframe), [row("2024-03-15 09:30:00")])
    assert vendor.asked[0].path == path
    assert (event.basis, event.feed, event.currency) == ("split", "consolidated", "USD")


async def test_the_vendors_last_day_is_part_of_its_answer_ours_is_not_of_the_range() -> None:
    rows = [row("2024-03-14"), row("2024-03-13"), row("2024-03-12")]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 12), date(2024, 3, 14)), rows)
    assert (vendor.asked[0].params["from"], vendor.asked[0].params["to"]) == ("2024-03-12", "2024-03-13")
    assert event.at == [at("2024-03-12"), at("2024-03-13")]


async def test_intraday_times_are_new_yorks_wall_clock_in_summer_and_in_winter() -> None:
    rows = [row("2024-03-11 09:30:00"), row("2024-03-08 09:30:00")]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1h", date(2024, 3, 8), date(2024, 3, 12)), rows)
    assert event.at == [at("2024-03-08 14:30"), at("2024-03-11 13:30")]
    assert vendor.asked[0].params["to"] == "2024-03-11"


async def test_a_utc_day_begins_on_the_evening_before_in_new_york() -> None:
    rows = [row("2024-03-12 20:00:00"), row("2024-03-12 19:00:00"), row("2024-03-11 20:00:00"), row("2024-03-11 19:00:00")]
    (event,), vendor = await fetched(FetchCall("bars", ("BTC/USD",), "1h", date(2024, 3, 12), date(2024, 3, 13)), rows)
    assert (vendor.asked[0].params["from"], vendor.asked[0].params["to"]) == ("2024-03-11", "2024-03-12")
    assert event.at == [at("2024-03-12 00:00"), at("2024-03-12 23:00")]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_the_hour_that_comes_twice_when_the_clock_goes_back_is_two_hours(newest_first: bool) -> None:
    hours = [("00:00", 1), ("01:00", 2), ("01:00", 3), ("02:00", 4)]
    rows = [row(f"2023-11-05 {hour}:00", 10.0 + close / 10) for hour, close in hours]
    call = FetchCall("bars", ("BTC/USD",), "1h", date(2023, 11, 5), date(2023, 11, 6))
    (event,), _ = await fetched(call, rows[::-1] if newest_first else rows)
    assert [when.hour for when in event.at] == [4, 5, 6, 7]
    assert event.close == [10.1, 10.2, 10.3, 10.4]


async def test_long_intraday_ranges_are_asked_in_windows_from_the_newest_back() -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1m", date(2024, 3, 5), date(2024, 3, 12)), [])
    spans = [(r.params["from"], r.params["to"]) for r in vendor.asked]
    assert spans == [("2024-03-09", "2024-03-11"), ("2024-03-06", "2024-03-08"), ("2024-03-04", "2024-03-05")]
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(1990, 1, 1), date(2024, 3, 15)), [])
    assert len(vendor.asked) == 3


async def test_an_answer_that_was_cut_short_is_continued_from_where_it_was_cut() -> None:
    newest = [row("2024-03-14", 11.1), row("2024-01-03", 11.2)]
    older = [row("2024-01-03", 11.3), row("2023-06-01", 11.4)]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2023, 6, 1), date(2024, 3, 15)), newest, older)
    assert [(r.params["from"], r.params["to"]) for r in vendor.asked] == [
        ("2023-06-01", "2024-03-14"),
        ("2023-06-01", "2024-01-03"),
    ]
    assert event.close == [11.4, 11.3, 11.1]


async def test_asking_on_ends_where_the_series_begins() -> None:
    rows = [row("2024-03-14"), row("2024-02-01")]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2023, 1, 1), date(2024, 3, 15)), rows)
    assert len(vendor.asked) == 2
    assert event.at == [at("2024-02-01"), at("2024-03-14")]


async def test_days_to_come_are_not_asked_for() -> None:
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 4, 1), date(2024, 4, 5)), [])
    assert (event.at, vendor.asked) == ([], [])


async def test_todays_bar_is_final_when_the_day_is_over_at_the_exchange() -> None:
    rows = [row("2024-03-15"), row("2024-03-14")]
    for symbol, now, final in (
        ("ACME", NOW, [True, False]),
        ("ACME", datetime(2024, 3, 16, 3, 59, tzinfo=UTC), [True, False]),
        ("ACME", datetime(2024, 3, 16, 4, 15, tzinfo=UTC), [True, True]),
        ("BTC/USD", datetime(2024, 3, 16, 0, 15, tzinfo=UTC), [True, True]),
    ):
        (event,), _ = await fetched(FetchCall("bars", (symbol,), "1d"), rows, now=now)
        assert isinstance(event, PriceBars)
        assert event.final == final


async def test_an_intraday_bar_is_final_when_it_is_over_even_for_a_delayed_plan() -> None:
    rows = [row("2024-03-15 14:15:00"), row("2024-03-15 14:00:00"), row("2024-03-15 13:55:00")]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "5m"), rows)
    assert event.final == [True, True, False]


async def test_rows_without_a_price_or_a_date_and_null_rows_are_no_bars() -> None:
    good, rest = (
        row("2024-03-14"),
        [row("2024-03-13", 0), row("2024-03-12", -1), row("2024-03-11", open=None), row("2024-03-08", low=0)],
    )
    light = {"date": "2024-03-07", "price": 11.0, "volume": 500}
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), [good, *rest, light, None, row(""), {"open": 1}])
    assert event.at == [at("2024-03-14")]


async def test_numbers_may_be_texts_and_volume_may_be_missing_or_a_fraction() -> None:
    rows = [
        {"symbol": "ACME", "date": "2024-03-14", "open": "1.0e1", "high": 12, "low": "9", "close": "11.5", "volume": 815.75},
        {"symbol": "ACME", "date": "2024-03-13", "open": 10, "high": 12, "low": 9, "close": 11},
    ]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), rows)
    assert (event.open, event.close, event.volume) == ([10.0, 10.0], [11.0, 11.5], [None, 815.75])


async def test_rows_of_other_symbols_are_not_ours() -> None:
    rows = [row("2024-03-14", 10.5, symbol="BOLT"), row("2024-03-14", 11.5, symbol="acme")]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), rows)
    assert event.close == [11.5]


async def test_closes_adjusted_for_dividends_are_an_option_at_a_second_call() -> None:
    adjusted = [{"symbol": "ACME", "date": "2024-03-14", "adjOpen": 9.5, "adjHigh": 11.5, "adjLow": 8.5, "adjClose": 10.5}]
    vendor = FakeVendor([row("2024-03-14"), row("2024-03-13")], adjusted)
    answer = await provider(adjusted=1).fetch(FetchCall("bars", ("ACME",), "1d"), vendor, NOW)
    assert [request.path for request in vendor.asked] == [
        "/stable/historical-price-eod/full",
        "/stable/historical-price-eod/dividend-adjusted",
    ]
    assert isinstance(answer.events[0], PriceBars)
    assert (answer.events[0].close, answer.events[0].adjusted_close) == ([11.0, 11.0], [None, 10.5])


async def test_a_symbol_without_even_a_latest_bar_is_unknown_an_empty_range_is_not() -> None:
    for timeframe in ("1d", "5m"):
        assert (await verdict_of(FetchCall("bars", ("GONE",), timeframe), [])).verdict is Verdict.NOT_FOUND
        (event,), _ = await fetched(FetchCall("bars", ("ACME",), timeframe, date(2024, 3, 9), date(2024, 3, 11)), [])
        assert event.at == []


async def test_londons_pence_become_pounds_and_its_unit_is_looked_up_once() -> None:
    vendor = FakeVendor(
        [row("2024-03-14", 1100.0, open=1000.0, high=1200.0, low=900.0)], [{"symbol": "VOD.L", "currency": "GBp"}], []
    )
    adapter = provider()
    answer = await adapter.fetch(FetchCall("bars", ("VOD.L",), "1d"), vendor, NOW)
    event = answer.events[0]
    assert isinstance(event, PriceBars)
    assert (event.open, event.close, event.currency, event.quoted_in) == ([10.0], [11.0], "GBP", "GBp")
    assert [request.path for request in vendor.asked][1:] == ["/stable/profile"]
    answer = await adapter.fetch(
        FetchCall("quote", ("VOD.L",)), again := FakeVendor([{**ACME, "symbol": "VOD.L", "price": 1105.0}]), NOW
    )
    assert isinstance(answer.events[0], PriceQuote)
    assert (answer.events[0].price, len(again.asked)) == (11.05, 1)


@pytest.mark.parametrize(
    ("symbol", "currency"),
    [("ACME", "USD"), ("BRK.B", "USD"), ("^GSPC", None), ("SAP.DE", None), ("EUR/JPY", "JPY"), ("ethbtc", "BTC")],
)
async def test_a_currency_is_named_where_it_is_known(symbol: str, currency: str | None) -> None:
    (event,), vendor = await fetched(FetchCall("bars", (symbol,), "1d"), [row("2024-03-14")])
    assert (event.currency, len(vendor.asked)) == (currency, 1)


async def test_one_quote_is_asked_alone_several_in_a_batch() -> None:
    _, vendor = await fetched(FetchCall("quote", ("ACME",)), [ACME])
    assert (vendor.asked[0].path, vendor.asked[0].params) == ("/stable/quote", {"symbol": "ACME"})
    events, vendor = await fetched(
        FetchCall("quote", ("ACME", "BRK.B", "^GSPC")), [{**ACME, "symbol": s} for s in ("^GSPC", "BRK-B", "ACME")]
    )
    assert [(r.path, r.params) for r in vendor.asked] == [("/stable/batch-quote", {"symbols": "ACME,BRK-B,^GSPC"})]
    assert [(event.symbol, event.currency) for event in events] == [("ACME", "USD"), ("BRK.B", "USD"), ("^GSPC", None)]


@pytest.mark.parametrize("seconds", [1710526800, 1710526800000, "1710526800"])
async def test_a_quotes_time_is_in_seconds_and_may_be_in_milliseconds(seconds: object) -> None:
    (event,), _ = await fetched(FetchCall("quote", ("ACME",)), [{**ACME, "timestamp": seconds}])
    assert (event.at, event.observed_at) == (at("2024-03-15 18:20"), at("2024-03-15 18:20"))


async def test_what_a_quote_does_not_say_is_null() -> None:
    (event,), _ = await fetched(
        FetchCall("quote", ("ACME",)), [{"symbol": "ACME", "price": 20.5, "previousClose": 0, "timestamp": 0}]
    )
    assert (event.at, event.bid, event.ask, event.previous_close, event.volume) == (None, None, None, None, None)
    assert event.observed_at == NOW - timedelta(minutes=15)


@pytest.mark.parametrize("price", [0, None, -1, "", "n/a"])
async def test_a_quote_without_a_price_is_none(price: object) -> None:
    assert (await verdict_of(FetchCall("quote", ("ACME",)), [{**ACME, "price": price}])).verdict is Verdict.NOT_FOUND


async def test_who_is_left_out_of_a_batch_is_unknown() -> None:
    answer = await provider().fetch(FetchCall("quote", ("ACME", "GONE")), FakeVendor([ACME]), NOW)
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["GONE"].verdict is Verdict.NOT_FOUND


async def test_a_plan_without_batches_is_asked_one_by_one_from_then_on() -> None:
    adapter = provider()
    vendor = FakeVendor(reply({"Error Message": EXCLUSIVE}, 402), [ACME], reply(PREMIUM, 402))
    answer = await adapter.fetch(FetchCall("quote", ("ACME", "VOD.L")), vendor, NOW)
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["VOD.L"].verdict is Verdict.PLAN_RESTRICTED
    vendor = FakeVendor([ACME], [{**ACME, "symbol": "BOLT"}])
    answer = await adapter.fetch(FetchCall("quote", ("ACME", "BOLT")), vendor, NOW)
    assert [request.path for request in vendor.asked] == ["/stable/quote", "/stable/quote"]
    assert len(answer.events) == 2


async def test_a_symbol_beyond_the_plan_does_not_end_batches() -> None:
    adapter = provider()
    await adapter.fetch(FetchCall("quote", ("ACME", "FAR")), FakeVendor(reply(PREMIUM, 402), [ACME], reply(PREMIUM, 402)), NOW)
    vendor = FakeVendor([ACME, {**ACME, "symbol": "BOLT"}])
    await adapter.fetch(FetchCall("quote", ("ACME", "BOLT")), vendor, NOW)
    assert vendor.asked[0].path == "/stable/batch-quote"


async def test_splits_and_declared_dividends_are_actions() -> None:
    splits = [
        {"symbol": "ACME", "date": "2019-06-17", "numerator": 5, "denominator": 1, "splitType": "stock-split"},
        {"symbol": "ACME", "date": "2012-05-02", "numerator": 1, "denominator": 80},
        {"symbol": "ACME", "date": "2011-05-02", "numerator": 1, "denominator": 1},
        {"symbol": "ACME", "date": "2010-05-02", "numerator": 3, "denominator": 0},
    ]
    dividends = [
        {"symbol": "ACME", "date": "2019-05-10", "adjDividend": 0.144, "dividend": 0.72, "recordDate": "", "paymentDate": ""},
        {"symbol": "ACME", "date": "1997-10-20", "adjDividend": 0.0215, "dividend": None},
        {"symbol": "ACME", "date": "1997-07-21", "adjDividend": 0, "dividend": 0},
    ]
    (event,), vendor = await fetched(FetchCall("actions", ("ACME",)), splits, dividends)
    assert isinstance(event, PriceActions)
    assert event.date == [date(1997, 10, 20), date(2012, 5, 2), date(2019, 5, 10), date(2019, 6, 17)]
    assert event.ratio == [None, 0.0125, None, 5.0]
    assert event.amount == [0.0215, None, 0.72, None]
    assert [r.params["limit"] for r in vendor.asked] == ["1000", "1000"]


async def test_no_actions_are_an_event_without_rows() -> None:
    (event,), _ = await fetched(FetchCall("actions", ("ACME",), start=date(2024, 1, 1), end=date(2024, 3, 1)), [])
    assert (event.date, event.asked_from) == ([], at("2024-01-01"))


async def test_a_pair_has_no_actions_and_costs_no_call() -> None:
    vendor = FakeVendor([])
    answer = await provider().fetch(FetchCall("actions", ("BTC/USD",)), vendor, NOW)
    assert answer.failed["BTC/USD"].verdict is Verdict.BAD_REQUEST
    assert not vendor.asked


def said(words: str, status: int = 200, **headers: str) -> Any:
    return reply({"Error Message": words}, status, **headers)


@pytest.mark.parametrize(
    ("answer", "verdict", "retry_at"),
    [
        (said(LIMIT, 429), Verdict.RATE_LIMITED, None),
        (said(LIMIT), Verdict.RATE_LIMITED, None),
        (LIMIT, Verdict.RATE_LIMITED, None),
        ([{"Error Message": LIMIT}], Verdict.RATE_LIMITED, None),
        (said(LIMIT, 429, retry_after="30"), Verdict.RATE_LIMITED, NOW + timedelta(seconds=30)),
        (said("Bandwidth Limit Reach . Please upgrade your plan"), Verdict.RATE_LIMITED, None),
        (reply("", 429), Verdict.RATE_LIMITED, None),
        (said(INVALID, 401), Verdict.UNAUTHORIZED, None),
        (said(INVALID, 403), Verdict.UNAUTHORIZED, None),
        (said(INVALID), Verdict.UNAUTHORIZED, None),
        (reply({"message": "Unauthorized"}, 401), Verdict.UNAUTHORIZED, None),
        (said("Your account has been suspended", 403), Verdict.UNAUTHORIZED, None),
        (reply(PREMIUM, 402), Verdict.PLAN_RESTRICTED, None),
        (reply(PREMIUM), Verdict.PLAN_RESTRICTED, None),
        (reply(f'"{PREMIUM}"', 402), Verdict.PLAN_RESTRICTED, None),
        (said(EXCLUSIVE, 403), Verdict.PLAN_RESTRICTED, None),
        (said(EXCLUSIVE), Verdict.PLAN_RESTRICTED, None),
        (said("Restricted Endpoint: This endpoint is not available", 402), Verdict.PLAN_RESTRICTED, None),
        (said(LEGACY, 403), Verdict.PLAN_RESTRICTED, None),
        (reply("", 402), Verdict.PLAN_RESTRICTED, None),
        (reply({"message": "Not Found"}, 404), Verdict.NOT_FOUND, None),
        (said("Error: Invalid date format", 400), Verdict.BAD_REQUEST, None),
        (said("Query Error: Invalid or missing query parameter - symbol"), Verdict.BAD_REQUEST, None),
        (said("the calculation failed upstream"), Verdict.MALFORMED, None),
        (said("the calculation failed upstream", 500), Verdict.SERVER_ERROR, None),
        (reply("<html>502</html>", 502), Verdict.SERVER_ERROR, None),
        (reply([], 503), Verdict.SERVER_ERROR, None),
        (reply("", 404), Verdict.MALFORMED, None),
        ("<html>hello</html>", Verdict.MALFORMED, None),
        ('[{"date": "2024-03-14', Verdict.MALFORMED, None),
        ({}, Verdict.MALFORMED, None),
        ([1, 2], Verdict.MALFORMED, None),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: object, verdict: Verdict, retry_at: datetime | None) -> None:
    for call in (
        FetchCall("bars", ("ACME",), "1d"),
        FetchCall("bars", ("ACME",), "5m", date(2024, 3, 11), date(2024, 3, 12)),
        FetchCall("quote", ("ACME",)),
        FetchCall("quote", ("ACME", "BOLT")),
        FetchCall("actions", ("ACME",)),
    ):
        error = await verdict_of(call, answer)
        assert (error.verdict, error.retry_at) == (verdict, retry_at)
        assert "://" not in error.message


async def test_a_key_that_the_vendor_repeats_is_not_passed_on() -> None:
    for words in (f"Premium: {KEY} has no subscription", f"something about {KEY}"):
        assert KEY not in (await verdict_of(FetchCall("quote", ("ACME",)), said(words))).message
