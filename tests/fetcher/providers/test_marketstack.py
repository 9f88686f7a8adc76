from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from contracts.price_events import PriceActions, PriceBars, PriceQuote
from services.fetcher.provider import Credentials, FetchCall, ProviderError, Verdict
from services.fetcher.providers.marketstack import Marketstack
from tests.fetcher.fake_vendor import Asking, FakeVendor, at, reply

KEY = "canary-7f3a"
NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)
MIDNIGHT = datetime(2024, 3, 16, tzinfo=UTC)
LIVE = {
    "open": 20.0,
    "high": 20.9,
    "low": 19.9,
    "last": None,
    "bid_price": None,
    "ask_price": None,
    "mid": None,
    "close": 20.4,
    "volume": 31000.0,
    "marketstack_last": 20.5,
    "date": "2024-03-15T18:15:00+0000",
    "symbol": "ACME",
    "exchange": "IEXG",
}


def provider(**options: str | float) -> Marketstack:
    return Marketstack(Credentials(api_key=KEY, options=options))


def row(day: str, close: float = 11.0, symbol: str = "ACME", **more: object) -> dict[str, object]:
    bar = {"open": 10.0, "high": 12.0, "low": 9.0, "close": close, "volume": 500.0, "adj_close": close / 2}
    return {"date": f"{day}T00:00:00+0000", "symbol": symbol, "exchange": "XNAS", **bar, **more}


def page(*rows: object, offset: int = 0, total: int | None = None, count: int | None = None) -> dict[str, object]:
    length = len(rows) if count is None else count
    pagination = {"limit": 1000, "offset": offset, "count": length, "total": length if total is None else total}
    return {"pagination": pagination, "data": list(rows)}


def refused(code: str, status: int, message: str = "No.", **more: object) -> Any:
    return reply({"error": {"code": code, "message": message, **more}}, status)


RESTRICTED = refused("function_access_restricted", 403)


ASKING = Asking(provider, NOW)
fetched, verdict_of = ASKING.fetched, ASKING.verdict_of


RANGE = FetchCall("bars", ("ACME",), "1d", date(2024, 3, 11), date(2024, 3, 15))


async def test_the_key_goes_where_the_vendor_wants_it_and_the_newest_bars_cost_one_page() -> None:
    _, vendor = await fetched(FetchCall("bars", ("BRK.B",), "1d"), page(row("2024-03-14", symbol="BRK.B"), total=4100))
    (asked,) = vendor.asked
    assert asked.path == "/v2/eod"
    assert asked.params == {"access_key": KEY, "symbols": "BRK.B", "limit": "500", "offset": "0"}


async def test_the_vendors_last_day_is_part_of_its_answer_ours_is_not_of_the_range() -> None:
    (event,), vendor = await fetched(RANGE, page(row("2024-03-11"), row("2024-03-14"), row("2024-03-15")))
    assert vendor.asked[0].params.items() >= {"date_from": "2024-03-11", "date_to": "2024-03-14", "sort": "ASC"}.items()
    assert event.at == [at("2024-03-11"), at("2024-03-14")]
    assert (event.basis, event.feed, event.currency) == ("raw", "eod", "USD")


@pytest.mark.parametrize("day", ["2024-03-14T00:00:00+0000", "2024-03-14T00:00:00+00:00", "2024-03-14T00:00:00Z", "2024-03-14"])
async def test_a_session_date_is_taken_as_it_is_written(day: str) -> None:
    (event,), _ = await fetched(RANGE, page(row("2024-03-14", date=day)))
    assert event.at == [at("2024-03-14")]


async def test_pages_are_followed_by_the_counts_the_vendor_tells() -> None:
    first = page(row("2024-03-11"), total=250, count=100)
    second = page(row("2024-03-12"), offset=100, total=250, count=100)
    third = page(row("2024-03-13"), offset=200, total=250, count=50)
    (event,), vendor = await fetched(RANGE, first, second, third)
    assert [request.params["offset"] for request in vendor.asked] == ["0", "100", "200"]
    assert len(event.at) == 3


async def test_a_page_that_never_comes_is_the_end() -> None:
    (event,), vendor = await fetched(RANGE, page(row("2024-03-11"), total=250, count=100), page(offset=250, total=250))
    assert (len(event.at), len(vendor.asked)) == (1, 2)


async def test_the_same_page_again_is_not_taken_for_the_next() -> None:
    error = await verdict_of(RANGE, page(row("2024-03-11"), total=250, count=100))
    assert error.verdict is Verdict.MALFORMED


async def test_an_answer_without_pagination_is_the_whole_of_it() -> None:
    (event,), vendor = await fetched(RANGE, {"data": [row("2024-03-11")]})
    assert (len(event.at), len(vendor.asked)) == (1, 1)


async def test_symbols_share_a_request_whose_bars_fit_on_a_page_and_each_is_paid_for() -> None:
    call = FetchCall("bars", ("ACME", "BOLT", "CORP"), "1d", date(2024, 3, 11), date(2024, 3, 15))
    events, vendor = await fetched(call, page(*(row("2024-03-14", symbol=symbol) for symbol in call.symbols)))
    assert [(request.params["symbols"], request.cost) for request in vendor.asked] == [("ACME,BOLT,CORP", 3)]
    assert [event.symbol for event in events] == ["ACME", "BOLT", "CORP"]
    call = FetchCall("bars", ("ACME", "BOLT", "CORP"), "1d", date(2023, 1, 2), date(2024, 3, 15))
    _, vendor = await fetched(call, page())
    assert [(request.params["symbols"], request.cost) for request in vendor.asked] == [("ACME,BOLT", 2), ("CORP", 1)]
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1d"), page(row("2024-03-14")))
    assert vendor.asked[0].cost == 1


async def test_no_call_is_dearer_than_the_second_allows() -> None:
    profile = Marketstack.profile
    assert max(profile.symbols_per_call.values()) == profile.limits.per_second


async def test_who_is_left_out_has_an_empty_range_but_no_latest_bar() -> None:
    call = FetchCall("bars", ("ACME", "GONE"), "1d", date(2024, 3, 11), date(2024, 3, 15))
    events, _ = await fetched(call, page(row("2024-03-14")))
    assert [(event.symbol, len(event.at)) for event in events] == [("ACME", 1), ("GONE", 0)]
    answer = await provider().fetch(FetchCall("bars", ("GONE",), "1d"), FakeVendor(page()), NOW)
    assert (answer.events, answer.failed) == ([], {})


@pytest.mark.parametrize("data", [[], [[]], [None], None])
async def test_nothing_is_spelled_in_several_ways(data: object) -> None:
    (event,), _ = await fetched(RANGE, {"pagination": {"limit": 1000, "offset": 0, "count": 0, "total": 0}, "data": data})
    assert event.at == []


async def test_the_rows_may_be_within_the_tickers_own_record() -> None:
    bare = {key: value for key, value in row("2024-03-14").items() if key != "symbol"}
    (event,), _ = await fetched(RANGE, {"pagination": {}, "data": {"name": "Acme Corp", "symbol": "ACME", "eod": [bare]}})
    assert event.close == [11.0]


async def test_rows_without_a_price_or_a_date_are_no_bars_and_unknown_numbers_are_null() -> None:
    rows = [
        row("2024-03-11", 0),
        row("2024-03-12", open=None),
        row("", 11.5),
        row("2024-03-13", adj_close=None, volume=None),
        row("2024-03-14", adj_close=-1, volume="1.5E3"),
    ]
    (event,), _ = await fetched(RANGE, page(*rows))
    assert isinstance(event, PriceBars)
    assert (event.at, event.volume) == ([at("2024-03-13"), at("2024-03-14")], [None, 1500.0])
    assert event.adjusted_close is None


async def test_of_two_exchanges_under_one_symbol_the_busiest_is_meant() -> None:
    rows = [row("2024-03-14", 11.0), row("2024-03-14", 10.2, exchange="XMEX", volume=3.0), row("2024-03-13", 11.5)]
    (event,), _ = await fetched(RANGE, page(*rows))
    assert event.close == [11.5, 11.0]


@pytest.mark.parametrize(
    ("more", "currency", "close"),
    [
        ({"price_currency": "usd"}, "USD", 11.0),
        ({"price_currency": "eur", "exchange": "XETR"}, "EUR", 11.0),
        ({"price_currency": "gbx", "exchange": "XLON"}, "GBP", 0.11),
        ({"price_currency": "GBp", "exchange": "XLON"}, "GBP", 0.11),
        ({"price_currency": "zac", "exchange": "XJSE"}, "ZAR", 0.11),
        ({"exchange": "XNYS"}, "USD", 11.0),
        ({"exchange": "XLON"}, None, 11.0),
    ],
)
async def test_prices_are_in_the_currency_that_is_named_or_known(
    more: dict[str, object], currency: str | None, close: float
) -> None:
    (event,), _ = await fetched(RANGE, page(row("2024-03-14", **more)))  # type: ignore[arg-type]
    assert (event.currency, event.close) == (currency, [close])


async def test_todays_bar_is_final_when_the_day_is_over_in_new_york() -> None:
    rows = page(row("2024-03-15"), row("2024-03-14"))
    for now, final in ((NOW, [True, False]), (datetime(2024, 3, 16, 4, tzinfo=UTC), [True, True])):
        answer = await provider().fetch(FetchCall("bars", ("ACME",), "1d"), FakeVendor(rows), now)
        assert isinstance(answer.events[0], PriceBars)
        assert answer.events[0].final == final


async def test_indices_are_of_an_exchange_of_their_own() -> None:
    (event,), vendor = await fetched(
        FetchCall("bars", ("^GSPC",), "1d"), page(row("2024-03-14", symbol="GSPC.INDX", exchange="INDX"))
    )
    assert vendor.asked[0].params["symbols"] == "GSPC.INDX"
    assert (event.symbol, event.currency) == ("^GSPC", None)


@pytest.mark.parametrize("symbol", ["EUR/USD", "BTC/USD", "btcusd"])
async def test_there_are_no_pairs_and_they_cost_no_call(symbol: str) -> None:
    for call in (FetchCall("bars", (symbol,), "1d"), FetchCall("quote", (symbol,)), FetchCall("actions", (symbol,))):
        vendor = FakeVendor(page())
        answer = await provider().fetch(call, vendor, NOW)
        assert answer.failed[symbol].verdict is Verdict.BAD_REQUEST
        assert not vendor.asked


async def test_intraday_rows_are_no_bars() -> None:
    vendor = FakeVendor(page(LIVE))
    with pytest.raises(ProviderError) as caught:
        await provider().fetch(FetchCall("bars", ("ACME",), "1h"), vendor, NOW)
    assert caught.value.verdict is Verdict.BAD_REQUEST
    assert not vendor.asked


async def test_a_live_quotes_close_is_the_day_befores() -> None:
    entitled = {**LIVE, "last": 20.6, "bid_price": 20.55, "ask_price": 20.65}
    for live, price, bid, ask in ((LIVE, 20.5, None, None), (entitled, 20.6, 20.55, 20.65)):
        (event,), vendor = await fetched(FetchCall("quote", ("ACME",)), page(live))
        assert isinstance(event, PriceQuote)
        assert (event.price, event.bid, event.ask, event.previous_close) == (price, bid, ask, 20.4)
        assert (event.at, event.observed_at) == (at("2024-03-15 18:15"), at("2024-03-15 18:15"))
        assert (event.feed, event.currency, event.volume) == ("iex", "USD", 31000.0)
        assert vendor.asked[0].path == "/v2/intraday/latest"
        assert vendor.asked[0].params["interval"] == "15min"


async def test_the_interval_of_a_larger_plan_is_an_option() -> None:
    vendor = FakeVendor(page(LIVE))
    await provider(interval="1min").fetch(FetchCall("quote", ("ACME",)), vendor, NOW)
    assert vendor.asked[0].params["interval"] == "1min"


async def test_a_share_class_is_spelled_with_a_dash_among_live_quotes() -> None:
    (event,), vendor = await fetched(FetchCall("quote", ("BRK.B",)), page({**LIVE, "symbol": "BRK-B"}))
    assert vendor.asked[0].params["symbols"] == "BRK-B"
    assert event.symbol == "BRK.B"


async def test_a_quote_that_iex_lacks_is_the_last_sessions_close() -> None:
    blank = {**LIVE, "symbol": "BOLT", "close": None, "volume": None, "marketstack_last": None}
    closes = page(
        row("2024-03-13", 8.0, "BOLT"), row("2024-03-14", 7.5, "BOLT"), row("2024-03-15", 70.5, "VOD.XLON", exchange="XLON")
    )
    events, vendor = await fetched(FetchCall("quote", ("ACME", "BOLT", "VOD.XLON")), page(LIVE, blank), closes)
    assert [(r.path, r.params["symbols"], r.cost) for r in vendor.asked] == [
        ("/v2/intraday/latest", "ACME,BOLT", 2),
        ("/v2/eod/latest", "BOLT,VOD.XLON", 2),
    ]
    assert [(event.symbol, event.price, event.feed) for event in events] == [
        ("ACME", 20.5, "iex"),
        ("BOLT", 7.5, "eod"),
        ("VOD.XLON", 70.5, "eod"),
    ]
    assert (events[1].at, events[1].previous_close, events[1].observed_at) == (at("2024-03-14"), None, NOW)


async def test_a_plan_without_live_quotes_is_not_asked_for_them_again() -> None:
    adapter = provider()
    for paths in (["/v2/intraday/latest", "/v2/eod/latest"], ["/v2/eod/latest"]):
        vendor = FakeVendor(*([RESTRICTED] if len(paths) == 2 else []), page(row("2024-03-14")))
        answer = await adapter.fetch(FetchCall("quote", ("ACME",)), vendor, NOW)
        assert [request.path for request in vendor.asked] == paths
        assert isinstance(answer.events[0], PriceQuote)
        assert answer.events[0].price == 11.0


async def test_live_quotes_are_kept_when_the_last_sessions_fail() -> None:
    vendor = FakeVendor(page(LIVE), refused("usage_limit_reached", 429))
    answer = await provider().fetch(FetchCall("quote", ("ACME", "VOD.XLON")), vendor, NOW)
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["VOD.XLON"].verdict is Verdict.RATE_LIMITED


async def test_splits_and_dividends_are_two_requests() -> None:
    splits = page(
        {"date": "2019-06-17", "split_factor": 5.0, "stock_split": "5:1", "symbol": "ACME"},
        {"date": "2015-04-13", "split_factor": None, "stock_split": "3:2", "symbol": "ACME"},
        {"date": "2013-06-10", "split_factor": 0.5, "symbol": "BOLT"},
        {"date": "2012-06-11", "split_factor": 1.0, "symbol": "ACME"},
    )
    dividends = page(
        {"date": "2024-02-12", "dividend": 0.25, "payment_date": "2024-02-15 05:00:00", "distr_freq": "q", "symbol": "ACME"},
        {"date": "2023-11-10", "dividend": 0, "symbol": "ACME"},
    )
    (acme, bolt), vendor = await fetched(FetchCall("actions", ("ACME", "BOLT")), splits, dividends)
    assert isinstance(acme, PriceActions)
    assert (acme.date, acme.ratio) == ([date(2015, 4, 13), date(2019, 6, 17), date(2024, 2, 12)], [1.5, 5.0, None])
    assert (acme.amount, acme.currency) == ([None, None, 0.25], "USD")
    assert (bolt.date, bolt.ratio) == ([date(2013, 6, 10)], [0.5])
    assert [(r.path, r.cost, "date_from" in r.params) for r in vendor.asked] == [
        ("/v2/splits", 2, False),
        ("/v2/dividends", 2, False),
    ]


async def test_who_is_unknown_to_one_list_of_actions_may_be_known_to_the_other() -> None:
    unknown = refused("no_valid_symbols_provided", 422)
    call = FetchCall("actions", ("ACME",), start=date(2024, 1, 1), end=date(2024, 3, 1))
    (event,), vendor = await fetched(call, unknown, page({"date": "2024-02-12", "dividend": 0.25, "symbol": "ACME"}))
    assert event.amount == [0.25]
    assert vendor.asked[1].params.items() >= {"date_from": "2024-01-01", "date_to": "2024-02-29"}.items()
    assert (await verdict_of(call, unknown)).verdict is Verdict.NOT_FOUND


MISSING = {"symbols": [{"key": "missing_symbols", "message": "You did not specify any symbols."}]}
NOT_VALID = {"symbols": [{"key": "invalid_symbols", "message": "No such symbol."}]}
OLDER = {"success": False, "error": {"code": 101, "type": "invalid_access_key", "info": f"Not a key: {KEY}"}}


@pytest.mark.parametrize(
    ("answer", "verdict", "retry_at"),
    [
        (refused("invalid_access_key", 401, f"{KEY} is no key"), Verdict.UNAUTHORIZED, None),
        (refused("missing_access_key", 401), Verdict.UNAUTHORIZED, None),
        (refused("inactive_user", 401), Verdict.UNAUTHORIZED, None),
        (refused("unauthorized", 401), Verdict.UNAUTHORIZED, None),
        (reply(OLDER), Verdict.UNAUTHORIZED, None),
        (reply({"message": "Unauthorized"}, 401), Verdict.UNAUTHORIZED, None),
        (refused("usage_limit_reached", 429), Verdict.RATE_LIMITED, MIDNIGHT),
        (refused("usage_limit_reached", 200), Verdict.RATE_LIMITED, MIDNIGHT),
        (refused("too_many_requests", 429), Verdict.RATE_LIMITED, MIDNIGHT),
        (refused("rate_limit_reached", 429), Verdict.RATE_LIMITED, NOW + timedelta(seconds=1)),
        (
            reply({"error": {"code": "rate_limit_reached"}}, 429, retry_after="30"),
            Verdict.RATE_LIMITED,
            NOW + timedelta(seconds=30),
        ),
        (reply({"message": "API rate limit exceeded"}, 429), Verdict.RATE_LIMITED, None),
        (refused("no_valid_symbols_provided", 422), Verdict.NOT_FOUND, None),
        (refused("404_not_found", 404), Verdict.NOT_FOUND, None),
        (refused("not_found_error", 404), Verdict.NOT_FOUND, None),
        (refused("validation_error", 422, context=NOT_VALID), Verdict.NOT_FOUND, None),
        (reply({"detail": "The ticker is not found."}, 404), Verdict.NOT_FOUND, None),
        (reply({}, 404), Verdict.NOT_FOUND, None),
        (reply("<html>404</html>", 404), Verdict.MALFORMED, None),
        (refused("data_not_available", 406), Verdict.EMPTY, None),
        (refused("validation_error", 422), Verdict.BAD_REQUEST, None),
        (refused("validation_error", 422, context=MISSING), Verdict.BAD_REQUEST, None),
        (refused("invalid_api_function", 404), Verdict.BAD_REQUEST, None),
        (refused("something_new", 400), Verdict.BAD_REQUEST, None),
        (refused("internal_error", 500), Verdict.SERVER_ERROR, None),
        (refused("something_new", 502), Verdict.SERVER_ERROR, None),
        (reply("<html>503</html>", 503), Verdict.SERVER_ERROR, None),
        (refused("something_new", 200), Verdict.MALFORMED, None),
        ("<html>hello</html>", Verdict.MALFORMED, None),
        ('{"pagination": {"lim', Verdict.MALFORMED, None),
        ({}, Verdict.MALFORMED, None),
        ([], Verdict.MALFORMED, None),
        ({"data": [1, 2]}, Verdict.MALFORMED, None),
        ({"data": {"ACME": []}}, Verdict.MALFORMED, None),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: object, verdict: Verdict, retry_at: datetime | None) -> None:
    for call in (RANGE, FetchCall("bars", ("ACME",), "1d"), FetchCall("quote", ("ACME",)), FetchCall("actions", ("ACME",))):
        error = await verdict_of(call, answer)
        assert (error.verdict, error.retry_at) == (verdict, retry_at)
        assert KEY not in error.message


@pytest.mark.parametrize("code", ["function_access_restricted", "https_access_restricted"])
@pytest.mark.parametrize("status", [200, 403])
async def test_what_the_plan_lacks_is_not_taken_for_a_refused_key(code: str, status: int) -> None:
    for call in (RANGE, FetchCall("quote", ("ACME",)), FetchCall("actions", ("ACME",))):
        assert (await verdict_of(call, refused(code, status))).verdict is Verdict.PLAN_RESTRICTED


async def test_a_faulty_parameter_is_named() -> None:
    error = await verdict_of(
        RANGE, refused("validation_error", 422, context={"date_from": [{"key": "bad", "message": "is no date"}]})
    )
    assert error.message == "marketstack: date_from: is no date"


async def test_after_a_refusal_of_all_no_further_request_is_made() -> None:
    call = FetchCall("bars", ("ACME", "BOLT", "CORP"), "1d", date(2022, 1, 3), date(2024, 3, 15))
    vendor = FakeVendor(page(row("2024-03-14")), refused("usage_limit_reached", 429))
    answer = await provider().fetch(call, vendor, NOW)
    assert len(vendor.asked) == 2
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == dict.fromkeys(
        ("BOLT", "CORP"), Verdict.RATE_LIMITED
    )
