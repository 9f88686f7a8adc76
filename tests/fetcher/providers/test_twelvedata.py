from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceActions, PriceBars, PriceQuote
from services.fetcher.provider import Credentials, FetchCall, Verdict
from services.fetcher.providers.twelvedata import TwelveData
from tests.fetcher.fake_vendor import Asking, FakeVendor, at, reply

KEY = "canary-7f3a"
NOW = datetime(2024, 3, 15, 18, 20, 12, tzinfo=UTC)
NO_DATA = {
    "code": 400,
    "message": "No data is available on the specified dates. Try setting different start/end dates.",
    "status": "error",
}
UNKNOWN = {"code": 404, "message": "**symbol** or **figi** parameter is missing or invalid.", "status": "error"}


def provider(**options: float) -> TwelveData:
    return TwelveData(Credentials(api_key=KEY, options=options))


def row(time: str, close: object = "11.00000", **more: object) -> dict[str, object]:
    return {"datetime": time, "open": "10.00000", "high": "12.00000", "low": "9.00000", "close": close, "volume": "500", **more}


def series(*rows: dict[str, object], **meta: object) -> dict[str, object]:
    about = {"symbol": "ACME", "currency": "USD", "exchange_timezone": "America/New_York", **meta}
    return {"meta": {k: v for k, v in about.items() if v is not None}, "values": list(rows), "status": "ok"}


def quote(**more: object) -> dict[str, object]:
    return {
        "symbol": "ACME",
        "currency": "USD",
        "datetime": "2024-03-14",
        "close": "20.50000",
        "previous_close": "21.00000",
        **more,
    }


ASKING = Asking(provider, NOW)
answered, fetched, verdict_of = ASKING.answered, ASKING.fetched, ASKING.verdict_of


async def test_the_key_travels_in_a_header() -> None:
    _, vendor = await fetched(FetchCall("bars", ("BRK.B",), "1d"), series(row("2024-03-14")))
    assert vendor.asked[0].headers["Authorization"] == f"apikey {KEY}"
    assert vendor.asked[0].params["symbol"] == "BRK.B"
    assert KEY not in str(vendor.asked[0].params)


@pytest.mark.parametrize(
    ("timeframe", "interval"),
    [
        ("1m", "1min"),
        ("5m", "5min"),
        ("15m", "15min"),
        ("30m", "30min"),
        ("1h", "1h"),
        ("1d", "1day"),
        ("1wk", "1week"),
        ("1mo", "1month"),
    ],
)
async def test_every_timeframe_has_its_interval_and_prices_are_adjusted_for_splits(timeframe: Timeframe, interval: str) -> None:
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), timeframe), series(row("2024-03-01 10:00:00")))
    params = vendor.asked[0].params
    assert (params["interval"], params["adjust"], params["outputsize"]) == (interval, "splits", "500")
    assert (len(event.at), event.basis) == (1, "split")


async def test_several_symbols_share_a_request_that_costs_a_credit_each() -> None:
    body = {"ACME": series(row("2024-03-14")), "EUR/USD": series(row("2024-03-14"), symbol="EUR/USD", currency=None)}
    events, vendor = await fetched(FetchCall("bars", ("ACME", "eurusd"), "1d"), body)
    assert [(r.path, r.params["symbol"], r.cost) for r in vendor.asked] == [("/time_series", "ACME,EUR/USD", 2)]
    assert [(event.symbol, event.currency) for event in events] == [("ACME", "USD"), ("eurusd", "USD")]


async def test_an_error_in_the_place_of_one_symbol_leaves_the_others_alone() -> None:
    body = {
        "ACME": series(row("2024-03-14")),
        "GONE": UNKNOWN,
        "DEAR": {"code": 404, "message": "This symbol is available starting with Grow", "status": "error"},
        "OLD": NO_DATA,
        "ODD": series(row("2024-03-14"), exchange_timezone="Mars/Olympus"),
        "NULL": None,
    }
    answer, _ = await answered(FetchCall("bars", (*body, "LOST"), "1d"), body)
    rows = {event.symbol: len(event.at) for event in answer.events if isinstance(event, PriceBars)}
    assert rows == {"ACME": 1, "OLD": 0}
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == {
        "GONE": Verdict.NOT_FOUND, "DEAR": Verdict.PLAN_RESTRICTED, "ODD": Verdict.MALFORMED
    }  # fmt: skip


async def test_what_is_said_of_a_whole_request_of_several_is_asked_again_of_each() -> None:
    answer, vendor = await answered(FetchCall("quote", ("GONE", "ACME")), reply(UNKNOWN, 404), reply(UNKNOWN, 404), quote())
    assert [r.params["symbol"] for r in vendor.asked] == ["GONE,ACME", "GONE", "ACME"]
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["GONE"].verdict is Verdict.NOT_FOUND
    spent = reply({"code": 429, "message": "You have run out of API credits for the current minute.", "status": "error"}, 429)
    answer, vendor = await answered(FetchCall("quote", ("GONE", "ACME", "BOLT")), UNKNOWN, UNKNOWN, spent)
    assert len(vendor.asked) == 3
    assert [answer.failed[s].verdict for s in ("GONE", "ACME", "BOLT")] == ["not_found", "rate_limited", "rate_limited"]


async def test_the_only_one_of_several_that_has_an_answer_may_come_without_a_wrapper() -> None:
    answer, _ = await answered(FetchCall("bars", ("BOLT", "ACME"), "1d"), series(row("2024-03-14")))
    assert [event.symbol for event in answer.events] == ["ACME"]
    events, _ = await fetched(FetchCall("bars", ("ACME",), "1d"), {"ACME": series(row("2024-03-14")), "BOLT": UNKNOWN})
    assert [event.symbol for event in events] == ["ACME"]


@pytest.mark.parametrize(
    ("zone", "time", "instant"),
    [
        ("America/New_York", "2024-03-08 09:30:00", "2024-03-08 14:30"),
        ("America/New_York", "2024-03-11 09:30:00", "2024-03-11 13:30"),
        ("Asia/Tokyo", "2024-03-11 09:00:00", "2024-03-11 00:00"),
    ],
)
async def test_intraday_times_are_the_exchanges_own(zone: str, time: str, instant: str) -> None:
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "5m"), series(row(time), exchange_timezone=zone))
    assert event.at == [at(instant)]


async def test_times_of_pairs_are_utc_and_those_of_a_share_mean_nothing_without_a_zone() -> None:
    bare = series(row("2024-03-11 09:30:00", volume=None), exchange_timezone=None, currency=None)
    (event,), _ = await fetched(FetchCall("bars", ("BTC/USD",), "5m"), bare)
    assert (event.at, event.currency, event.volume) == ([at("2024-03-11 09:30")], "USD", [None])
    assert (await verdict_of(FetchCall("bars", ("ACME",), "5m"), bare)).verdict is Verdict.MALFORMED
    (event,), _ = await fetched(
        FetchCall("bars", ("ACME",), "1d"), series(row("2024-03-11"), exchange_timezone=None, currency=None)
    )
    assert (event.at, event.currency) == ([at("2024-03-11")], None)


@pytest.mark.parametrize(
    ("timeframe", "start", "end"),
    [
        ("1d", "2024-03-06", "2024-03-13"),
        ("1wk", "2024-03-04", "2024-03-13"),
        ("1mo", "2024-03-01", "2024-03-13"),
        ("5m", "2024-03-05 12:00:00", "2024-03-13 14:00:00"),
    ],
)
async def test_a_range_is_asked_wide_enough_for_every_exchange(timeframe: Timeframe, start: str, end: str) -> None:
    call = FetchCall("bars", ("ACME",), timeframe, date(2024, 3, 6), date(2024, 3, 13))
    _, vendor = await fetched(call, NO_DATA)
    params = vendor.asked[0].params
    assert (params["start_date"], params["end_date"], params["outputsize"]) == (start, end, "5000")


async def test_a_ranges_days_are_those_of_utc() -> None:
    times = ("2024-03-12 20:00:00", "2024-03-12 19:59:00", "2024-03-11 20:00:00", "2024-03-11 19:59:00")
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1m", date(2024, 3, 12), date(2024, 3, 13)), series(*map(row, times)))
    assert event.at == [at("2024-03-12 00:00"), at("2024-03-12 23:59")]


def minutes(newest: datetime, count: int) -> list[dict[str, object]]:
    return [row(f"{newest - timedelta(minutes=i):%Y-%m-%d %H:%M:%S}") for i in range(count)]


async def test_a_full_answer_is_asked_on_for_what_lies_before_symbol_by_symbol() -> None:
    first, second = minutes(at("2024-03-14 23:59"), 5000), minutes(at("2024-03-11 12:40"), 3)
    pair = {"symbol": "BTC/USD", "exchange_timezone": None, "currency": None}
    body = {"BTC/USD": series(*first, **pair), "ETH/USD": series(first[0], **pair)}
    call = FetchCall("bars", ("BTC/USD", "ETH/USD"), "1m", date(2024, 3, 1), date(2024, 3, 15))
    events, vendor = await fetched(call, body, series(*second, **pair))
    assert [(r.params["symbol"], r.params["end_date"], r.cost) for r in vendor.asked] == [
        ("BTC/USD,ETH/USD", "2024-03-15 14:00:00", 2), ("BTC/USD", "2024-03-11 12:40:00", 1)
    ]  # fmt: skip
    rows = {symbol: sum(len(e.at) for e in events if e.symbol == symbol) for symbol in ("BTC/USD", "ETH/USD")}
    assert rows == {"BTC/USD": 5002, "ETH/USD": 1}


async def test_pages_end_with_the_vendors_data_and_when_it_repeats_itself() -> None:
    full = series(*minutes(at("2024-03-14 23:59"), 5000), exchange_timezone="UTC")
    call = FetchCall("bars", ("ACME",), "1m", date(2024, 3, 1), date(2024, 3, 15))
    for last, asked in ((NO_DATA, 2), (series(), 2), (full, 2)):
        events, vendor = await fetched(call, full, last)
        assert len(vendor.asked) == asked
        assert sum(len(event.at) for event in events) == 5000
    error = await verdict_of(call, full, reply("", 503))
    assert error.verdict is Verdict.SERVER_ERROR


async def test_todays_bar_is_final_when_the_day_is_over_at_its_exchange_and_has_arrived() -> None:
    for zone, now, final in (
        ("America/New_York", at("2024-03-15 03:59"), False),
        ("America/New_York", at("2024-03-15 04:00"), True),
        ("Asia/Tokyo", at("2024-03-14 15:29"), False),
        ("Asia/Tokyo", at("2024-03-14 15:30"), True),
    ):
        vendor = FakeVendor(series(row("2024-03-14"), exchange_timezone=zone))
        answer = await provider().fetch(FetchCall("bars", ("ACME",), "1d"), vendor, now)
        assert isinstance(answer.events[0], PriceBars)
        assert answer.events[0].final == [final]


async def test_prices_in_a_minor_unit_are_divided_and_numbers_may_be_written_oddly() -> None:
    rows = [row("2024-03-14", "1.1e1"), row("2024-03-13", None), row("2024-03-12", ""), row("2024-03-11", 11, volume=None)]
    for currency, scale, label in (("GBp", 100, "GBP"), ("ILA", 100, "ILS"), ("ZAc", 100, "ZAR"), ("EUR", 1, "EUR")):
        (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), series(*rows, currency=currency))
        assert (event.at, event.currency) == ([at("2024-03-11"), at("2024-03-14")], label)
        assert event.close == [11.0 / scale] * 2
        assert event.volume == [None, 500.0]
    (event,), _ = await fetched(FetchCall("quote", ("ACME",)), quote(currency="GBp"))
    assert (event.price, event.previous_close, event.currency, event.quoted_in) == (0.205, 0.21, "GBP", "GBp")


@pytest.mark.parametrize(
    ("times", "moment", "observed"),
    [
        ({"timestamp": 1710423000, "last_quote_at": 1710446340}, "2024-03-14 19:59", "2024-03-14 19:59"),
        ({"timestamp": 1710423000}, "2024-03-14 13:30", None),
        ({}, "2024-03-14", None),
        ({"datetime": None}, None, None),
    ],
)
async def test_a_quote_is_as_of_its_last_minute_else_its_bar_else_its_session(
    times: Any, moment: str | None, observed: Any
) -> None:
    (event,), vendor = await fetched(FetchCall("quote", ("ACME",)), quote(**times))
    assert isinstance(event, PriceQuote)
    assert vendor.asked[0].path == "/quote"
    assert event.at == (at(moment) if moment else None)
    assert event.observed_at == (at(observed) if observed else NOW)
    assert (event.bid, event.ask, event.volume) == (None, None, None)


async def test_a_quote_without_a_price_is_empty() -> None:
    for nothing in ("0", "0.00000", None, "", "NaN"):
        assert (await verdict_of(FetchCall("quote", ("ACME",)), quote(close=nothing))).verdict is Verdict.EMPTY


async def test_splits_are_new_shares_per_old_and_dividends_are_asked_for_as_paid() -> None:
    splits = [
        {"date": "2020-08-31", "description": "4-for-1 split", "ratio": 0.25, "from_factor": 4, "to_factor": 1},
        {"date": "2021-06-01", "description": "1-for-8 split", "ratio": 8, "from_factor": 1, "to_factor": 8},
        {"date": "2022-06-01", "ratio": "0.5"},
        {"date": None, "ratio": 0.5},
    ]
    dividends = [{"ex_date": "2021-08-06", "amount": 22.5}, {"ex_date": "2021-11-05", "amount": None}]
    meta = {"symbol": "ACME", "currency": "GBp"}
    (event,), vendor = await fetched(
        FetchCall("actions", ("ACME",)), {"meta": meta, "splits": splits}, {"meta": meta, "dividends": dividends}
    )
    assert isinstance(event, PriceActions)
    assert [(r.path, r.params) for r in vendor.asked] == [
        ("/splits", {"symbol": "ACME", "range": "full"}),
        ("/dividends", {"symbol": "ACME", "range": "full", "adjust": "false"}),
    ]
    assert (event.ratio, event.amount) == ([4.0, 0.125, None, 2.0], [None, None, 0.225, None])
    assert event.currency == "GBP"


async def test_who_never_split_is_no_unknown_symbol_and_who_is_unknown_to_both_is() -> None:
    paid = {"meta": {"symbol": "ACME", "currency": "USD"}, "dividends": [{"ex_date": "2021-08-06", "amount": 0.22}]}
    (event,), _ = await fetched(FetchCall("actions", ("ACME",)), reply(UNKNOWN, 404), paid)
    assert event.amount == [0.22]
    (event,), _ = await fetched(FetchCall("actions", ("ACME",)), {"meta": {}, "splits": []}, {"meta": {}, "dividends": []})
    assert event.date == []
    (event,), _ = await fetched(
        FetchCall("actions", ("ACME",)), {"meta": {}, "splits": [{"date": "2020-08-31", "ratio": 0.25}]}, reply({}, 404)
    )
    assert event.ratio == [4.0]
    assert (await verdict_of(FetchCall("actions", ("ACME",)), UNKNOWN)).verdict is Verdict.NOT_FOUND
    vendor = FakeVendor({})
    answer = await provider().fetch(FetchCall("actions", ("EUR/USD",)), vendor, NOW)
    assert answer.failed["EUR/USD"].verdict is Verdict.BAD_REQUEST
    assert not vendor.asked


async def test_splits_and_dividends_cost_the_credits_that_the_settings_say() -> None:
    for made, cost in ((provider(), 1), (provider(actions_credits=20), 20)):
        vendor = FakeVendor({"splits": []}, {"dividends": []})
        await made.fetch(FetchCall("actions", ("ACME",)), vendor, NOW)
        assert [r.cost for r in vendor.asked] == [cost, cost]


MINUTE = (
    "You have run out of API credits for the current minute. 12 API credits were used, with the current limit being 8. "
    "Wait for the next minute or consider switching to a higher tier plan at https://example.com/pricing"
)
DAY = "You have run out of API credits for the day. 801 API credits were used, with the current limit being 800."
PLAN = "/splits is available exclusively with grow or pro plans. Consider upgrading your API Key now at https://example.com/pricing"


def error(code: object, message: str, status: int = 200) -> Any:
    return reply({"code": code, "message": message, "status": "error"}, status)


@pytest.mark.parametrize(
    ("answer", "verdict", "retry_at"),
    [
        (error(429, MINUTE), Verdict.RATE_LIMITED, at("2024-03-15 18:21")),
        (error(429, MINUTE, 429), Verdict.RATE_LIMITED, at("2024-03-15 18:21")),
        (error("429", DAY, 429), Verdict.RATE_LIMITED, at("2024-03-16")),
        (reply("slow down", 429), Verdict.RATE_LIMITED, at("2024-03-15 18:21")),
        (reply("<html>slow down</html>", 429, retry_after="30"), Verdict.RATE_LIMITED, at("2024-03-15 18:20:42")),
        (
            error(401, f"**apikey** parameter {KEY} is incorrect. You can get one at https://example.com"),
            Verdict.UNAUTHORIZED,
            None,
        ),
        (error(401, "The **demo** key is only for trying; upgrade it", 401), Verdict.UNAUTHORIZED, None),
        (error(403, PLAN, 403), Verdict.PLAN_RESTRICTED, None),
        (error(403, "Forbidden"), Verdict.PLAN_RESTRICTED, None),
        (error(404, "This symbol is available starting with Grow plan", 404), Verdict.PLAN_RESTRICTED, None),
        (error(404, "**symbol** or **figi** parameter is missing or invalid.", 404), Verdict.NOT_FOUND, None),
        (error(400, "**symbol** not found: ACME. Please specify it correctly", 400), Verdict.NOT_FOUND, None),
        (error(404, "Data not found"), Verdict.NOT_FOUND, None),
        (error(400, "Invalid **interval** provided: 1ms. Supported intervals: 1min, 5min"), Verdict.BAD_REQUEST, None),
        (error(414, "Too many symbols", 200), Verdict.BAD_REQUEST, None),
        (reply("<html>URI too long</html>", 414), Verdict.BAD_REQUEST, None),
        (error(500, "Internal server error", 200), Verdict.SERVER_ERROR, None),
        (error(None, "something new", 200), Verdict.MALFORMED, None),
        (reply("404 page not found", 404), Verdict.MALFORMED, None),
        (reply({}, 404), Verdict.NOT_FOUND, None),
        (reply({"detail": "who are you"}, 401), Verdict.UNAUTHORIZED, None),
        (reply("<html>502</html>", 502), Verdict.SERVER_ERROR, None),
        (reply('{"meta": {"symbol": "AC'), Verdict.MALFORMED, None),
        (reply({"status": "ok", "meta": {}}, 500), Verdict.SERVER_ERROR, None),
        (reply({}), Verdict.MALFORMED, None),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: object, verdict: Verdict, retry_at: datetime | None) -> None:
    for call in (FetchCall("bars", ("ACME",), "1d"), FetchCall("quote", ("ACME",)), FetchCall("actions", ("ACME",))):
        failure = await verdict_of(call, answer)
        assert (failure.verdict, failure.retry_at) == (verdict, retry_at)
        assert KEY not in failure.message
        assert "://" not in failure.message


async def test_no_data_on_these_dates_is_an_event_without_rows() -> None:
    for answer in (NO_DATA, reply(NO_DATA, 400), series(), {"meta": {}, "values": None, "status": "ok"}):
        (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 9), date(2024, 3, 11)), answer)
        assert (event.at, event.asked_from) == ([], at("2024-03-09"))
