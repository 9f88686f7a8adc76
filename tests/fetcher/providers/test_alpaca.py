from base64 import b64encode
from datetime import UTC, date, datetime
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceBars
from services.fetcher.provider import Credentials, FetchCall, Verdict
from services.fetcher.providers.alpaca import Alpaca
from tests.fetcher.fake_vendor import Asking, at, reply

KEY, SECRET = "canary-7f3a", "canary-9b1c"
NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)


def provider(**options: str | float) -> Alpaca:
    return Alpaca(Credentials(api_key=KEY, api_secret=SECRET, options=options))


def bar(t: str, close: object = 11.0, **more: object) -> dict[str, object]:
    return {"t": t, "o": 10.0, "h": 12.0, "l": 9.0, "c": close, "v": 500, "n": 3, "vw": 10.5, **more}


def page(token: str | None = None, **bars: object) -> dict[str, object]:
    return {"bars": bars, "next_page_token": token}


ASKING = Asking(provider, NOW)
answered, fetched, verdict_of = ASKING.answered, ASKING.fetched, ASKING.verdict_of


DAYS = FetchCall("bars", ("ACME",), "1d", date(2024, 3, 12), date(2024, 3, 14))


async def test_the_keys_travel_in_headers() -> None:
    _, vendor = await fetched(DAYS, page())
    assert vendor.asked[0].headers == {"APCA-API-KEY-ID": KEY, "APCA-API-SECRET-KEY": SECRET}
    assert "canary" not in str(vendor.asked[0].params)


async def test_a_broker_partner_signs_in_with_a_basic_header() -> None:
    _, vendor = await fetched(DAYS, page(), auth="basic")
    assert vendor.asked[0].headers == {"Authorization": "Basic " + b64encode(f"{KEY}:{SECRET}".encode()).decode()}


@pytest.mark.parametrize("options", [{"feed": "otc"}, {"option_feed": "sip"}])
def test_a_feed_that_is_none_is_refused_when_the_adapter_is_built(options: dict[str, str | float]) -> None:
    with pytest.raises(ValueError, match="feed is sip"):
        provider(**options)


@pytest.mark.parametrize(
    ("symbol", "vendors"),
    [
        ("BRK.B", "BRK.B"),
        ("aapl", "AAPL"),
        ("O:ACME240419C00020000", "ACME240419C00020000"),
        ("ACME  240419C00020000", "ACME240419C00020000"),
        ("BTC/USD", "BTC/USD"),
        ("btcusd", "BTC/USD"),
        ("EUR/USD", "EURUSD"),
    ],
)
def test_symbols_are_spelled_as_the_vendor_does(symbol: str, vendors: str) -> None:
    assert provider().to_vendor(symbol) == vendors


@pytest.mark.parametrize(
    ("timeframe", "vendors"),
    [
        ("1m", "1Min"),
        ("5m", "5Min"),
        ("15m", "15Min"),
        ("30m", "30Min"),
        ("1h", "1Hour"),
        ("1d", "1Day"),
        ("1wk", "1Week"),
        ("1mo", "1Month"),
    ],
)
async def test_every_timeframe_has_the_vendors_name(timeframe: Timeframe, vendors: str) -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), timeframe, date(2024, 3, 4), date(2024, 3, 5)), page())
    assert vendor.asked[0].params["timeframe"] == vendors
    assert vendor.asked[0].params.items() >= {"adjustment": "raw", "feed": "sip", "limit": "10000"}.items()


async def test_a_day_is_asked_for_from_midnight_to_midnight_in_new_york() -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 8), date(2024, 3, 12)), page())
    assert (vendor.asked[0].params["start"], vendor.asked[0].params["end"]) == ("2024-03-08T05:00:00Z", "2024-03-12T03:59:59Z")


async def test_minutes_are_asked_for_by_utc_days_and_without_the_end() -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1m", date(2024, 3, 8), date(2024, 3, 9)), page())
    assert (vendor.asked[0].params["start"], vendor.asked[0].params["end"]) == ("2024-03-08T00:00:00Z", "2024-03-08T23:59:59Z")


async def test_weeks_are_asked_whole_and_labelled_by_their_monday() -> None:
    rows = [bar("2024-03-04T05:00:00Z"), bar("2024-03-11T04:00:00Z")]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1wk", date(2024, 3, 6), date(2024, 3, 13)), page(ACME=rows))
    assert vendor.asked[0].params["start"] == "2024-03-04T05:00:00Z"
    assert (event.at, event.final) == ([at("2024-03-04"), at("2024-03-11")], [True, False])


async def test_a_months_bar_stands_for_its_first_day() -> None:
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1mo", date(2024, 1, 15), date(2024, 2, 3)), page(ACME=[
        bar("2024-01-01T05:00:00Z"), bar("2024-02-01T05:00:00Z")
    ]))  # fmt: skip
    assert (vendor.asked[0].params["start"], vendor.asked[0].params["end"]) == ("2024-01-01T05:00:00Z", "2024-03-01T04:59:59Z")
    assert event.at == [at("2024-01-01"), at("2024-02-01")]


async def test_the_last_quarter_of_an_hour_of_the_tape_is_not_asked_for_without_a_paid_plan() -> None:
    today = FetchCall("bars", ("ACME",), "5m", date(2024, 3, 15), date(2024, 3, 16))
    for options, end, final in (
        ({}, "2024-03-15T18:04:00Z", [True, False]),
        ({"feed": "sip"}, "2024-03-15T18:20:00Z", [True, True]),
        ({"feed": "iex"}, "2024-03-15T18:20:00Z", [True, True]),
    ):
        rows = [bar("2024-03-15T17:55:00Z"), bar("2024-03-15T18:00:00Z")]
        (event,), vendor = await fetched(today, page(ACME=rows), **options)
        assert vendor.asked[0].params["end"] == end
        assert event.final == final


async def test_what_is_too_new_for_the_plan_costs_no_call() -> None:
    now = datetime(2024, 3, 15, 0, 10, tzinfo=UTC)
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1m", date(2024, 3, 15), date(2024, 3, 16)), page(), now=now)
    assert (event.at, vendor.asked) == ([], [])


async def test_todays_bar_is_final_when_the_late_tape_has_all_of_the_day() -> None:
    rows = page(ACME=[bar("2024-03-14T04:00:00Z"), bar("2024-03-15T04:00:00Z")])
    for now, final in (
        (NOW, [True, False]),
        (datetime(2024, 3, 16, 4, 10, tzinfo=UTC), [True, False]),
        (datetime(2024, 3, 16, 4, 17, tzinfo=UTC), [True, True]),
    ):
        (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), rows, now=now)
        assert event.final == final


async def test_bars_of_iex_and_of_the_tape_are_of_different_series() -> None:
    for options, feed in (({}, "sip"), ({"feed": "delayed_sip"}, "sip"), ({"feed": "iex"}, "iex")):
        (event,), vendor = await fetched(DAYS, page(ACME=[bar("2024-03-12T04:00:00Z")]), **options)
        assert (event.feed, vendor.asked[0].params["feed"], event.basis) == (feed, feed, "raw")


async def test_pages_are_followed_and_merged_though_a_symbol_is_missing_on_the_first() -> None:
    call = FetchCall("bars", ("ACME", "BOLT"), "1d", date(2024, 3, 11), date(2024, 3, 14))
    pages = (
        page("p2", ACME=[bar("2024-03-11T04:00:00Z")]),
        page("p3", ACME=[bar("2024-03-12T04:00:00Z")], BOLT=[bar("2024-03-11T04:00:00Z")]),
        page(None, BOLT=[bar("2024-03-12T04:00:00Z")]),
    )
    (acme, bolt), vendor = await fetched(call, *pages)
    assert acme.at == bolt.at == [at("2024-03-11"), at("2024-03-12")]
    assert [request.params.get("page_token") for request in vendor.asked] == [None, "p2", "p3"]
    assert {request.params["symbols"] for request in vendor.asked} == {"ACME,BOLT"}


async def test_a_page_token_that_repeats_ends_the_pages() -> None:
    (event,), vendor = await fetched(DAYS, page("same", ACME=[bar("2024-03-12T04:00:00Z")]))
    assert (len(vendor.asked), event.at) == (2, [at("2024-03-12")])


@pytest.mark.parametrize("bars", [{}, None, {"ACME": None}, {"ACME": []}, {"OTHER": [bar("2024-03-12T04:00:00Z")]}])
async def test_no_bars_are_an_empty_range_in_every_shape(bars: object) -> None:
    (event,), _ = await fetched(DAYS, {"bars": bars, "next_page_token": None})
    assert event.at == []
    assert (event.asked_from, event.asked_to) == (at("2024-03-12"), at("2024-03-14"))


async def test_a_null_row_or_one_without_a_price_is_left_out() -> None:
    rows = [None, bar("2024-03-12T04:00:00Z", None), {"c": 3}, bar("2024-03-13T04:00:00Z")]
    (event,), _ = await fetched(DAYS, page(ACME=rows))
    assert event.at == [at("2024-03-13")]


async def test_another_currency_is_named_by_the_answer() -> None:
    (event,), _ = await fetched(DAYS, {**page(ACME=[bar("2024-03-12T04:00:00Z")]), "currency": "EUR"})
    assert event.currency == "EUR"


async def test_the_newest_minute_comes_with_those_before_it() -> None:
    newest = {"bars": {"ACME": bar("2024-03-15T18:04:00Z", 11.5)}}
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1m"), newest, page(ACME=[bar("2024-03-15T18:03:00Z")]))
    assert [request.path for request in vendor.asked] == ["/v2/stocks/bars/latest", "/v2/stocks/bars"]
    assert vendor.asked[0].params["feed"] == "delayed_sip"
    assert vendor.asked[1].params["start"] == "2024-03-15T09:45:00Z"
    assert (event.at, event.close) == ([at("2024-03-15 18:03"), at("2024-03-15 18:04")], [11.0, 11.5])
    assert event.final == [True, True]


async def test_the_newest_minute_stands_though_those_before_it_are_refused() -> None:
    newest = {"bars": {"ACME": bar("2024-03-15T18:04:00Z")}}
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1m"), newest, reply({"message": "internal server error"}, 500))
    assert event.at == [at("2024-03-15 18:04")]


async def test_days_of_crypto_begin_at_midnight_utc_those_of_old_answers_in_chicago() -> None:
    call = FetchCall("bars", ("BTC/USD", "ETH/BTC"), "1d", date(2022, 5, 27), date(2022, 5, 29))
    rows = {"BTC/USD": [bar("2022-05-27T05:00:00Z"), bar("2022-05-28T05:00:00Z")], "ETH/BTC": [bar("2022-05-27T00:00:00Z", 9.5)]}
    (btc, eth), vendor = await fetched(call, {"bars": rows, "next_page_token": None})
    assert vendor.asked[0].path == "/v1beta3/crypto/us/bars"
    assert "feed" not in vendor.asked[0].params
    assert (btc.at, btc.currency, eth.at, eth.currency) == ([at("2022-05-27"), at("2022-05-28")], "USD", [at("2022-05-27")], "BTC")


async def test_symbols_of_several_kinds_are_asked_for_where_each_is() -> None:
    call = FetchCall("quote", ("ACME", "BTC/USD", "O:ACME240419C00020000", "EUR/USD"))
    quote = {"latestQuote": {"t": "2024-03-15T18:19:59Z", "bp": 1.0, "ap": 1.1}}
    events, vendor = await fetched(
        call,
        {"ACME": quote},
        {"snapshots": {"BTC/USD": quote}},
        {"snapshots": {"ACME240419C00020000": quote}},
        {"rates": {"EURUSD": {"t": "2024-03-15T18:19:59Z", "bp": 1.08, "mp": 1.09, "ap": 1.1}}},
    )
    assert [event.feed for event in events] == ["iex", "consolidated", "delayed", "consolidated"]
    assert [request.params.get("feed") for request in vendor.asked] == ["iex", None, "indicative", None]
    assert vendor.asked[3].params == {"currency_pairs": "EURUSD"}


async def test_currencies_have_rates_and_no_bars() -> None:
    error = await verdict_of(FetchCall("bars", ("EUR/USD",), "1d"), page())
    assert error.verdict is Verdict.BAD_REQUEST


async def test_long_lists_are_split_so_that_an_address_stays_short() -> None:
    symbols = tuple(f"O:ACME240419C{strike:05d}000" for strike in range(1, 101))
    _, vendor = await answered(FetchCall("quote", symbols), {"snapshots": {}})
    assert len(vendor.asked) == 2
    assert max(len(request.params["symbols"].replace(",", "%2C")) for request in vendor.asked) <= 1700
    assert ",".join(request.params["symbols"] for request in vendor.asked).count(",") == 99


async def test_one_invalid_symbol_does_not_refuse_the_others() -> None:
    call = FetchCall("bars", ("ACME", "B@D", "BOLT"), "1d", date(2024, 3, 12), date(2024, 3, 14))
    invalid = reply({"message": "invalid symbol: B@D"}, 400)
    answer, vendor = await answered(call, invalid, page(ACME=[bar("2024-03-12T04:00:00Z")]))
    assert [request.params["symbols"] for request in vendor.asked] == ["ACME,B@D,BOLT", "ACME,BOLT"]
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == {"B@D": Verdict.NOT_FOUND}
    assert [event.symbol for event in answer.events] == ["ACME", "BOLT"]


async def test_an_invalid_symbol_that_is_not_named_is_searched_for() -> None:
    call = FetchCall("bars", ("ACME", "B@D"), "1d", date(2024, 3, 12), date(2024, 3, 14))
    invalid = reply({"message": "invalid symbol"}, 400)
    answer, vendor = await answered(call, invalid, page(ACME=[bar("2024-03-12T04:00:00Z")]), invalid)
    assert [request.params["symbols"] for request in vendor.asked] == ["ACME,B@D", "ACME", "B@D"]
    assert list(answer.failed) == ["B@D"]


SNAPSHOT = {
    "latestTrade": {"t": "2024-03-15T18:19:50Z", "p": 22.4},
    "latestQuote": {"t": "2024-03-15T18:19:59.123456789Z", "bp": 22.5, "ap": 22.3},
    "dailyBar": bar("2024-03-15T04:00:00Z", 22.4, v=31000),
    "prevDailyBar": bar("2024-03-14T04:00:00Z", 21.9, v=28000),
}


async def spot_of(snapshot: object) -> Any:
    (event,), _ = await fetched(FetchCall("quote", ("ACME",)), {"ACME": snapshot})
    return event


async def test_a_crossed_quote_is_passed_on_as_it_was() -> None:
    event = await spot_of(SNAPSHOT)
    assert (event.bid, event.ask, event.at) == (22.5, 22.3, at("2024-03-15 18:19:59.123456"))
    assert event.observed_at == event.at


async def test_before_the_first_trade_of_a_day_the_last_close_is_that_of_the_newest_bar() -> None:
    yesterday = {"dailyBar": bar("2024-03-14T04:00:00Z", 21.9), "prevDailyBar": bar("2024-03-13T04:00:00Z", 21.0)}
    event = await spot_of(SNAPSHOT | yesterday)
    assert (event.previous_close, event.volume) == (21.9, None)


@pytest.mark.parametrize("never", [None, {}, {"t": "0001-01-01T00:00:00Z", "p": 0, "bp": 0, "ap": 0, "c": 0, "v": 0}])
async def test_what_never_happened_is_unknown(never: object) -> None:
    event = await spot_of(SNAPSHOT | {"latestQuote": never})
    assert (event.bid, event.ask, event.at) == (None, None, at("2024-03-15 18:19:50"))
    event = await spot_of(SNAPSHOT | {"dailyBar": never, "prevDailyBar": never})
    assert (event.previous_close, event.volume) == (None, None)


async def test_a_snapshot_with_nothing_in_it_is_empty_and_one_left_out_unknown() -> None:
    answer, _ = await answered(FetchCall("quote", ("ACME", "BOLT", "CORK")), {"ACME": {"latestTrade": None}, "BOLT": None})
    verdicts = {symbol: error.verdict for symbol, error in answer.failed.items()}
    assert verdicts == {"ACME": Verdict.EMPTY, "BOLT": Verdict.NOT_FOUND, "CORK": Verdict.NOT_FOUND}


async def test_quotes_name_their_feed() -> None:
    for options, asked, feed in (
        ({}, "iex", "iex"),
        ({"feed": "sip"}, "sip", "sip"),
        ({"feed": "delayed_sip"}, "delayed_sip", "delayed"),
    ):
        (event,), vendor = await fetched(FetchCall("quote", ("ACME",)), {"ACME": SNAPSHOT}, **options)
        assert (vendor.asked[0].params["feed"], event.feed) == (asked, feed)


async def test_a_chain_keeps_what_was_not_computed_unknown() -> None:
    greeks = {"delta": 0.5, "gamma": 0.1, "theta": -0.1, "vega": 0.2}
    snapshots = {
        "ACME240419C00020500": {"latestQuote": {"t": "2024-03-15T18:00:00Z", "bp": 0, "ap": 1.1}},
        "ACME240419P00020500": {"impliedVolatility": 0, "greeks": greeks},
        "ACME1240419C00020500": {
            "impliedVolatility": 0.25,
            "greeks": greeks,
            "latestTrade": {"t": "2024-03-01T18:00:00Z", "p": 2.0},
        },
        "WHATEVER": {},
        "ACME240419C00030000": None,
    }
    (event,), vendor = await fetched(FetchCall("chain", ("ACME",)), {"snapshots": snapshots, "next_page_token": None})
    assert vendor.asked[0].params == {"feed": "indicative", "limit": "1000"}
    assert (event.strike, event.right) == ([20.5, 20.5, 20.5], ["call", "put", "call"])
    assert (event.iv, event.delta) == ([None, None, 0.25], [None, None, 0.5])
    assert (event.bid, event.ask, event.last) == ([None] * 3, [1.1, None, None], [None, None, 2.0])
    assert event.at == [at("2024-03-15 18:00"), None, at("2024-03-01 18:00")]
    assert event.feed == "delayed"


async def test_volume_of_an_option_that_was_not_traded_today_is_unknown() -> None:
    snapshot = {"latestQuote": {"t": "2024-03-15T18:00:00Z", "bp": 1.0}, "dailyBar": bar("2024-03-01T05:00:00Z", 2.0, v=8)}
    (event,), _ = await fetched(FetchCall("chain", ("ACME",)), {"snapshots": {"ACME240419C00020500": snapshot}}, option_feed="opra")
    assert (event.volume, event.feed) == ([None], "consolidated")


async def test_actions_are_searched_for_by_the_day_they_are_processed_and_kept_by_their_ex_date() -> None:
    rows = [{"symbol": "ACME", "rate": 0.35, "ex_date": day, "process_date": "2024-03-05"} for day in ("2024-01-31", "2024-02-09")]
    call = FetchCall("actions", ("ACME",), None, date(2024, 2, 1), date(2024, 3, 1))
    (event,), vendor = await fetched(call, {"corporate_actions": {"cash_dividends": rows}, "next_page_token": None})
    assert (vendor.asked[0].params["start"], vendor.asked[0].params["end"]) == ("2024-01-02", "2024-08-28")
    assert (event.date, event.amount, event.currency) == ([date(2024, 2, 9)], [0.35], "USD")


async def test_a_dividend_in_shares_is_a_split() -> None:
    rows = [{"symbol": "ACME", "rate": 0.05, "ex_date": "2024-02-09"}]
    (event,), _ = await fetched(
        FetchCall("actions", ("ACME",)), {"corporate_actions": {"stock_dividends": rows, "name_changes": [{}]}}
    )
    assert (event.kind, event.ratio) == (["split"], [1.05])


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (403, {"message": "forbidden."}, Verdict.UNAUTHORIZED),
        (401, {"message": "unauthorized."}, Verdict.UNAUTHORIZED),
        (401, "<html>401 Authorization Required</html>", Verdict.UNAUTHORIZED),
        (403, {"code": 40310000, "message": "access key verification failed"}, Verdict.UNAUTHORIZED),
        (403, {"message": "subscription does not permit querying recent SIP data"}, Verdict.PLAN_RESTRICTED),
        (403, {"message": "OPRA agreement is not signed"}, Verdict.PLAN_RESTRICTED),
        (403, "<html>blocked</html>", Verdict.SERVER_ERROR),
        (429, {"message": "too many requests."}, Verdict.RATE_LIMITED),
        (429, "too many requests", Verdict.RATE_LIMITED),
        (400, {"message": "invalid symbol: AC$ME"}, Verdict.NOT_FOUND),
        (404, {"message": "asset not found for ACME"}, Verdict.NOT_FOUND),
        (400, {"message": "end should not be before start"}, Verdict.BAD_REQUEST),
        (422, {"code": 42210000, "message": "limit must be positive"}, Verdict.BAD_REQUEST),
        (500, {"message": "internal server error occurred"}, Verdict.SERVER_ERROR),
        (504, "upstream request timeout", Verdict.SERVER_ERROR),
        (200, {"message": "too many requests."}, Verdict.RATE_LIMITED),
        (200, {"something": "else"}, Verdict.MALFORMED),
        (404, {}, Verdict.MALFORMED),
    ],
)
async def test_every_refusal_has_its_verdict(status: int, body: object, verdict: Verdict) -> None:
    assert (await verdict_of(DAYS, reply(body, status))).verdict is verdict


async def test_a_throttled_key_is_told_when_its_minute_is_over() -> None:
    for body in ({"message": "too many requests."}, "too many requests", ""):
        error = await verdict_of(DAYS, reply(body, 429, x_ratelimit_reset="1710526860"))
        assert error.retry_at == at("2024-03-15 18:21")


async def test_secrets_in_the_vendors_words_are_never_passed_on() -> None:
    for secret in (KEY, SECRET):
        error = await verdict_of(DAYS, reply({"message": f"invalid parameter {secret}"}, 400))
        assert secret not in str(error)


async def test_an_event_holds_at_most_two_thousand_bars() -> None:
    rows = [bar(f"2024-03-{day:02d}T{i // 60:02d}:{i % 60:02d}:00Z") for day in (12, 13) for i in range(1440)]
    events, _ = await fetched(FetchCall("bars", ("ACME",), "1m", date(2024, 3, 12), date(2024, 3, 14)), page(ACME=rows))
    assert [len(event.at) for event in events] == [2000, 880]
    assert all(isinstance(event, PriceBars) for event in events)
