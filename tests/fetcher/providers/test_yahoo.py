import itertools
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceActions, PriceBars, PriceChain, PriceQuote
from services.fetcher.provider import Credentials, FetchCall, ProviderError, Verdict
from services.fetcher.providers.yahoo import Yahoo
from tests.fetcher.fake_vendor import Asking, FakeVendor, at, reply

NOW = datetime(2024, 3, 15, 18, 0, tzinfo=UTC)  # two hours before New York closes
COOKIE, CRUMB = reply("", 404, set_cookie="A1=x; Path=/\nA3=y; Path=/"), reply("Ab.c/1x")
REFUSED = reply({"finance": {"result": None, "error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}, 401)


def chart(rows: Sequence[tuple[datetime, float | None, float | None]], **meta: Any) -> dict[str, Any]:
    """A chart of bars given as (start, price, volume)."""
    prices = [row[1] for row in rows]
    quote = dict.fromkeys(("open", "high", "low", "close"), prices) | {"volume": [row[2] for row in rows]}
    about = {"currency": "USD", "exchangeTimezoneName": "America/New_York", "instrumentType": "EQUITY", "gmtoffset": -14400}
    result: dict[str, Any] = {"meta": about | meta, "indicators": {"quote": [quote if rows else {}]}}
    if rows:
        result["timestamp"] = [int(row[0].timestamp()) for row in rows]
    return {"chart": {"result": [result], "error": None}}


def refusal(code: str, description: str) -> dict[str, Any]:
    return {"chart": {"result": None, "error": {"code": code, "description": description}}}


ASKING = Asking(lambda: Yahoo(Credentials()), NOW)
fetched, verdict_of = ASKING.fetched, ASKING.verdict_of


async def bars(answer: object, timeframe: Timeframe = "1d", start: date | None = None, end: date | None = None) -> PriceBars:
    events, _ = await fetched(FetchCall("bars", ("ACME",), timeframe, start, end), answer)
    assert len(events) == 1
    event: PriceBars = events[0]
    return event


@pytest.mark.parametrize(
    ("symbol", "vendors"),
    [
        ("BRK.B", "BRK-B"),
        ("VOD.L", "VOD.L"),
        ("7203.T", "7203.T"),
        ("SHOP.TO", "SHOP.TO"),
        ("EUR/USD", "EURUSD=X"),
        ("BTC/USD", "BTC-USD"),
        ("^GSPC", "^GSPC"),
        ("ES=F", "ES=F"),
    ],
)
def test_symbols_in_yahoos_spelling(symbol: str, vendors: str) -> None:
    assert Yahoo(Credentials()).to_vendor(symbol) == vendors


async def test_a_symbol_is_quoted_in_the_path_and_a_browser_asks() -> None:
    _, vendor = await fetched(FetchCall("bars", ("^GSPC",), "1d"), chart([]))
    assert vendor.asked[0].path == "/v8/finance/chart/%5EGSPC"
    assert "Mozilla" in vendor.asked[0].headers["User-Agent"]


async def test_rows_of_nulls_are_dropped_and_what_stands_beside_keeps_its_place() -> None:
    event = await bars(
        chart([(at("2024-03-12 13:30"), 10.0, 5), (at("2024-03-13 13:30"), None, None), (at("2024-03-14 13:30"), 12.0, 7)])
    )
    assert event.at == [at("2024-03-12"), at("2024-03-14")]
    assert (event.close, event.volume) == ([10.0, 12.0], [5.0, 7.0])


async def test_unsorted_rows_are_sorted_and_of_two_for_a_day_the_later_counts() -> None:
    rows = [(at("2024-03-14 13:30"), 12.0, 7), (at("2024-03-12 13:30"), 9.0, 4), (at("2024-03-12 14:30"), 10.0, 5)]
    event = await bars(chart([*rows, (at("2024-03-13 13:30"), 11.0, 6)]))
    assert event.close == [10.0, 11.0, 12.0]


async def test_the_noise_of_a_float32_is_gone_and_pence_are_pounds() -> None:
    event = await bars(
        chart([(at("2024-03-14 08:00"), 1286.5699462890625, 1)], currency="GBp", exchangeTimezoneName="Europe/London")
    )
    assert event.close == [12.8657]
    assert (event.currency, event.quoted_in) == ("GBP", "GBp")


async def test_the_date_of_a_session_is_its_exchanges() -> None:
    london = await bars(chart([(at("2023-06-30 23:00"), 1.27, 0)], exchangeTimezoneName="Europe/London", instrumentType="CURRENCY"))
    assert london.at == [at("2023-07-01")]
    assert london.volume == [None]
    before_1970 = await bars(chart([(at("1962-01-02 14:30"), 7.5, 1)]))
    assert before_1970.at == [at("1962-01-02")]


async def test_a_bar_is_final_when_its_day_week_or_month_is_over_where_it_trades() -> None:
    days = await bars(chart([(at("2024-03-14 13:30"), 12.0, 7), (at("2024-03-15 13:30"), 12.5, 3)]))
    assert days.final == [True, False]
    weeks = await bars(chart([(at("2024-03-04 05:00"), 12.0, 7), (at("2024-03-11 04:00"), 12.5, 3)]), "1wk")
    assert (weeks.at, weeks.final) == ([at("2024-03-04"), at("2024-03-11")], [True, False])
    hours = await bars(chart([(at("2024-03-15 16:30"), 12.0, 7), (at("2024-03-15 17:30"), 12.5, 3)]), "1h")
    assert hours.final == [True, False]


async def test_of_a_delayed_exchange_only_what_lies_before_the_last_trade_is_final() -> None:
    rows = [(at(f"2024-03-15 {start}"), 12.0, 7) for start in ("17:35", "17:40", "17:45")]
    last_trade = int(at("2024-03-15 17:44:58").timestamp())
    assert (await bars(chart(rows, regularMarketTime=last_trade), "5m")).final == [True, False, False]
    long_ago = int(at("2024-03-15 09:00").timestamp())
    assert (await bars(chart(rows[:1], regularMarketTime=long_ago), "5m")).final == [False]
    assert (await bars(chart([(at("2024-03-15 17:20"), 12.0, 7)], regularMarketTime=long_ago), "5m")).final == [True]


async def test_the_live_row_of_a_day_takes_the_place_of_the_days_bar() -> None:
    event = await bars(chart([(at("2024-03-15 13:30"), 12.0, 700), (at("2024-03-15 17:58:31"), 12.5, 900)]))
    assert event.at == [at("2024-03-15")]
    assert (event.open, event.high, event.low, event.close) == ([12.0], [12.5], [12.0], [12.5])
    assert event.volume == [900.0]


async def test_the_live_row_of_a_shorter_or_longer_bar_is_added_to_it() -> None:
    minutes = await bars(chart([(at("2024-03-15 17:55"), 12.0, 70), (at("2024-03-15 17:58:31"), 11.5, 0)]), "5m")
    assert (minutes.at, minutes.low, minutes.close, minutes.volume) == ([at("2024-03-15 17:55")], [11.5], [11.5], [70.0])
    weeks = await bars(chart([(at("2024-03-11 04:00"), 12.0, 700), (at("2024-03-15 17:58:31"), 12.5, 90)]), "1wk")
    assert (weeks.at, weeks.close, weeks.volume) == ([at("2024-03-11")], [12.5], [790.0])


async def test_a_close_of_zero_is_no_bar() -> None:
    event = await bars(chart([(at("2024-03-13 13:30"), 0.0, 0), (at("2024-03-14 13:30"), 12.0, 7)]))
    assert event.at == [at("2024-03-14")]


async def test_a_range_takes_in_its_first_day_and_not_its_last() -> None:
    rows = [(at(f"2024-03-{day} 13:30"), float(day), 1) for day in (11, 12, 13, 14)]
    event = await bars(chart(rows), "1d", date(2024, 3, 12), date(2024, 3, 14))
    assert event.close == [12.0, 13.0]
    assert (event.asked_from, event.asked_to) == (at("2024-03-12"), at("2024-03-14"))


async def test_a_week_or_month_belongs_to_a_range_that_it_overlaps() -> None:
    call = FetchCall("bars", ("ACME",), "1wk", date(2024, 3, 6), date(2024, 3, 12))
    rows = [(at(f"{day} 05:00"), 10.0, 1) for day in ("2024-02-26", "2024-03-04", "2024-03-11", "2024-03-18")]
    (event,), vendor = await fetched(call, chart(rows))
    assert event.at == [at("2024-03-04"), at("2024-03-11")]
    assert int(vendor.asked[0].params["period1"]) <= at("2024-03-04").timestamp()
    months = await bars(
        chart([(at("2024-01-01 05:00"), 1.0, 1), (at("2024-02-01 05:00"), 2.0, 1)]), "1mo", date(2024, 2, 20), date(2024, 2, 21)
    )
    assert months.at == [at("2024-02-01")]


async def test_minutes_are_asked_in_windows_of_at_most_eight_days_each_its_own_request() -> None:
    call = FetchCall("bars", ("ACME",), "1m", date(2024, 3, 1), date(2024, 3, 16))
    (event,), vendor = await fetched(
        call, chart([(at("2024-03-01 14:30"), 1.0, 1)]), chart([]), chart([(at("2024-03-15 14:30"), 2.0, 1)])
    )
    assert event.close == [1.0, 2.0]
    spans = [(int(r.params["period1"]), int(r.params["period2"])) for r in vendor.asked]
    assert spans[0][0] == at("2024-03-01").timestamp()
    assert spans[-1][1] == at("2024-03-16").timestamp()
    assert all(0 < end - start <= 8 * 86400 for start, end in spans)
    assert all(one[1] == next_[0] for one, next_ in itertools.pairwise(spans))


async def test_a_range_longer_than_an_event_comes_in_several_that_share_it_out() -> None:
    call = FetchCall("bars", ("ACME",), "1d", date(2000, 1, 1), date(2012, 1, 1))
    rows = [(datetime.fromtimestamp(946_900_000 + 86400 * i, UTC), 10.0, 1) for i in range(4100)]
    events, _ = await fetched(call, chart(rows))
    assert [len(event.at) for event in events] == [2000, 2000, 100]
    assert (events[0].asked_from, events[-1].asked_to) == (at("2000-01-01"), at("2012-01-01"))
    assert all(one.asked_to == after.asked_from == after.at[0] for one, after in itertools.pairwise(events))


async def test_the_latest_are_the_newest_five_hundred() -> None:
    rows = [(datetime.fromtimestamp(1_650_000_000 + 86400 * i, UTC), float(i + 1), 1) for i in range(600)]
    event = await bars(chart(rows))
    assert (len(event.at), event.close[-1]) == (500, 600.0)
    assert (event.asked_from, event.asked_to) == (None, None)


async def test_nothing_in_the_range_is_an_event_without_rows() -> None:
    weekend = (date(2024, 3, 9), date(2024, 3, 11))
    assert (await bars(chart([]), "1m", *weekend)).at == []
    assert (
        await bars(reply(refusal("Bad Request", "Data doesn't exist for startDate = 1, endDate = 2"), 400), "1d", *weekend)
    ).at == []


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (reply(refusal("Not Found", "No data found for NOSUCH"), 404), Verdict.NOT_FOUND),
        (
            reply(
                refusal(
                    "Unprocessable Entity",
                    "15m data not available for startTime=1. The requested range must be within the last 60 days.",
                ),
                422,
            ),
            Verdict.BAD_REQUEST,
        ),
        (reply("Too Many Requests\r\n", 429), Verdict.RATE_LIMITED),
        (reply("Edge: Too Many Requests", 200), Verdict.RATE_LIMITED),
        (reply("Request denied", 999), Verdict.RATE_LIMITED),
        (reply({"chart": None}), Verdict.MALFORMED),
        (reply("<html>Will be right back...</html>", 502), Verdict.SERVER_ERROR),
        (reply("", 307, location="https://consent.example.com"), Verdict.SERVER_ERROR),
        (reply(refusal("Internal Server Error", "trouble"), 500), Verdict.SERVER_ERROR),
        (
            reply(
                {
                    "finance": {
                        "result": None,
                        "error": {"code": "Unauthorized", "description": "User is unable to access this feature"},
                    }
                },
                401,
            ),
            Verdict.UNAUTHORIZED,
        ),
        (chart([(NOW, 1.0, 1)], exchangeTimezoneName="Mars/Olympus"), Verdict.MALFORMED),
        (reply("{}", 404), Verdict.MALFORMED),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: object, verdict: Verdict) -> None:
    error = await verdict_of(FetchCall("bars", ("ACME",), "15m"), answer)
    assert error.verdict is verdict


async def test_columns_that_do_not_match_are_malformed() -> None:
    torn = chart([(at("2024-03-13 13:30"), 1.0, 1), (at("2024-03-14 13:30"), 2.0, 1)])
    torn["chart"]["result"][0]["indicators"]["quote"][0]["close"] = [1.0]
    assert (await verdict_of(FetchCall("bars", ("ACME",), "1d"), torn)).verdict is Verdict.MALFORMED


async def test_one_unknown_symbol_does_not_spoil_the_others() -> None:
    call = FetchCall("bars", ("NOSUCH", "ACME"), "1d")
    answer = await Yahoo(Credentials()).fetch(
        call, FakeVendor(reply(refusal("Not Found", "No data found"), 404), chart([(at("2024-03-14 13:30"), 12.0, 7)])), NOW
    )
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["NOSUCH"].verdict is Verdict.NOT_FOUND


async def test_after_a_refusal_for_all_the_rest_is_not_asked() -> None:
    vendor = FakeVendor(chart([(at("2024-03-14 13:30"), 12.0, 7)]), reply("Too Many Requests", 429, retry_after="120"))
    answer = await Yahoo(Credentials()).fetch(FetchCall("bars", ("ACME", "BOLT", "CORK"), "1d"), vendor, NOW)
    assert len(vendor.asked) == 2
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == dict.fromkeys(
        ("BOLT", "CORK"), Verdict.RATE_LIMITED
    )
    assert answer.failed["BOLT"].retry_at == datetime(2024, 3, 15, 18, 2, tzinfo=UTC)


async def test_splits_and_dividends_of_the_range_in_order_and_in_pounds() -> None:
    document = chart([(at("2024-02-01 08:00"), 100.0, 1)], currency="GBp", exchangeTimezoneName="Europe/London")
    day = {name: int(at(f"2024-{name} 08:00").timestamp()) for name in ("01-10", "02-09", "03-01")}
    document["chart"]["result"][0]["events"] = {
        "dividends": {"b": {"date": day["02-09"], "amount": 12.5}, "z": {"date": day["03-01"], "amount": 9.0}},
        "splits": {
            "a": {"date": day["01-10"], "numerator": 1.0, "denominator": 10.0},
            "x": {"date": day["01-10"], "numerator": 1, "denominator": 0},
        },
    }
    (event,), _ = await fetched(FetchCall("actions", ("WIDG.L",), None, date(2024, 1, 1), date(2024, 3, 1)), document)
    assert isinstance(event, PriceActions)
    assert (event.date, event.kind) == ([date(2024, 1, 10), date(2024, 2, 9)], ["split", "dividend"])
    assert (event.ratio, event.amount) == ([0.1, None], [None, 0.125])


def quote_answer(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"quoteResponse": {"result": list(rows), "error": None}}


async def test_quotes_share_a_request_that_carries_cookie_and_crumb() -> None:
    rows = [
        {"symbol": symbol, "quoteType": "EQUITY", "currency": "USD", "regularMarketPrice": 20.5} for symbol in ("BRK-B", "ACME")
    ]
    events, vendor = await fetched(FetchCall("quote", ("ACME", "BRK.B")), COOKIE, CRUMB, quote_answer(*rows))
    assert [event.symbol for event in events] == ["ACME", "BRK.B"]
    assert [request.path for request in vendor.asked] == ["https://fc.yahoo.com/", "/v1/test/getcrumb", "/v7/finance/quote"]
    assert vendor.asked[1].headers["Cookie"] == vendor.asked[2].headers["Cookie"] == "A1=x; A3=y"
    assert (vendor.asked[2].params["symbols"], vendor.asked[2].params["crumb"]) == ("ACME,BRK-B", "Ab.c/1x")


async def test_a_crumb_serves_until_it_is_refused_and_is_then_replaced_once() -> None:
    yahoo, good = Yahoo(Credentials()), quote_answer({"symbol": "ACME", "regularMarketPrice": 20.5})
    vendor = FakeVendor(COOKIE, CRUMB, good, REFUSED, COOKIE, reply("new"), good)
    for _ in range(2):
        assert len((await yahoo.fetch(FetchCall("quote", ("ACME",)), vendor, NOW)).events) == 1
    assert vendor.asked[-1].params["crumb"] == "new"
    assert (
        await verdict_of(FetchCall("quote", ("ACME",)), COOKIE, CRUMB, REFUSED, COOKIE, CRUMB, REFUSED)
    ).verdict is Verdict.UNAUTHORIZED


async def test_without_a_cookie_a_crumb_is_tried_all_the_same() -> None:
    blocked = ProviderError(Verdict.SERVER_ERROR, "fc.yahoo.com: no such host")
    events, vendor = await fetched(
        FetchCall("quote", ("ACME",)), blocked, CRUMB, quote_answer({"symbol": "ACME", "regularMarketPrice": 1.5})
    )
    assert len(events) == 1
    assert "Cookie" not in vendor.asked[2].headers


@pytest.mark.parametrize("answer", ["<html>consent</html>", reply("Too Many Requests", 429), '{"finance":{}}'])
async def test_what_is_no_crumb_is_never_sent_as_one(answer: object) -> None:
    vendor = FakeVendor(COOKIE, answer)
    with pytest.raises(ProviderError):
        await Yahoo(Credentials()).fetch(FetchCall("quote", ("ACME",)), vendor, NOW)
    assert len(vendor.asked) == 2


async def test_a_quote_knows_what_it_does_not_know() -> None:
    row = {
        "symbol": "EURUSD=X",
        "quoteType": "CURRENCY",
        "currency": "USD",
        "regularMarketPrice": 1.0885000228881836,
        "bid": 0,
        "regularMarketVolume": 0,
        "regularMarketTime": 1710525600,
    }
    (event,), _ = await fetched(FetchCall("quote", ("EUR/USD",)), COOKIE, CRUMB, quote_answer(row))
    assert isinstance(event, PriceQuote)
    assert (event.price, event.bid, event.ask, event.previous_close, event.volume) == (1.0885, None, None, None, None)
    assert event.at == event.observed_at == datetime(2024, 3, 15, 18, 0, tzinfo=UTC)


async def test_a_chain_follows_its_expirations_to_the_end() -> None:
    def page(expiry: int, *contracts: dict[str, Any]) -> dict[str, Any]:
        options = [{"expirationDate": expiry, "calls": [c | {"expiration": expiry} for c in contracts], "puts": []}]
        return {
            "optionChain": {
                "result": [{"expirationDates": [1711065600, 1711670400, 1712275200], "options": options}],
                "error": None,
            }
        }

    placeholder = {"contractSymbol": "A1", "strike": 20, "bid": 0, "ask": 0, "lastPrice": 1.5, "impliedVolatility": 0.00001}
    later = {"contractSymbol": "A2", "strike": 20, "bid": {"raw": 1.25, "fmt": "1.25"}, "impliedVolatility": 0.3}
    (event,), vendor = await fetched(
        FetchCall("chain", ("ACME",)),
        COOKIE,
        CRUMB,
        page(1711065600, placeholder),
        page(1711670400, later, later),
        page(1712275200),
    )
    assert isinstance(event, PriceChain)
    assert [request.params.get("date") for request in vendor.asked[2:]] == [None, "1711670400", "1712275200"]
    assert event.contract == ["A1", "A2"]
    assert event.expiry == [date(2024, 3, 22), date(2024, 3, 29)]
    assert (event.bid, event.iv, event.last) == ([None, 1.25], [None, 0.3], [1.5, None])
    assert (event.volume, event.at, event.delta, event.mark) == ([None, None],) * 4


async def test_what_has_no_options_is_an_event_without_contracts_and_what_is_unknown_is_not_found() -> None:
    (event,), _ = await fetched(
        FetchCall("chain", ("^VIXX",)),
        COOKIE,
        CRUMB,
        {"optionChain": {"result": [{"expirationDates": [], "options": []}], "error": None}},
    )
    assert event.contract == []
    unknown = {"optionChain": {"result": [], "error": None}}
    assert (await verdict_of(FetchCall("chain", ("NOSUCH",)), COOKIE, CRUMB, unknown)).verdict is Verdict.NOT_FOUND
