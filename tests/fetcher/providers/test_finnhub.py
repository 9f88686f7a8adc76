from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceActions, PriceBars, PriceQuote
from services.fetcher.provider import Credentials, FetchCall, Verdict
from services.fetcher.providers.finnhub import Finnhub
from tests.fetcher.fake_vendor import Asking, FakeVendor, at, reply

KEY = "canary-7f3a"
NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)
NO_DATA = {"s": "no_data"}


def provider() -> Finnhub:
    return Finnhub(Credentials(api_key=KEY))


def candles(*times: str | datetime, close: float = 11.0) -> dict[str, object]:
    stamps = [int((at(t) if isinstance(t, str) else t).timestamp()) for t in times]
    n = len(stamps)
    return {"o": [10.0] * n, "h": [12.0] * n, "l": [9.0] * n, "c": [close] * n, "v": [500] * n, "t": stamps, "s": "ok"}


ASKING = Asking(provider, NOW)
fetched, verdict_of = ASKING.fetched, ASKING.verdict_of


async def test_the_key_travels_in_a_header() -> None:
    _, vendor = await fetched(FetchCall("bars", ("BRK.B",), "1d"), NO_DATA)
    assert vendor.asked[0].headers["X-Finnhub-Token"] == KEY
    assert vendor.asked[0].params["symbol"] == "BRK.B"
    assert KEY not in str(vendor.asked[0].params)


@pytest.mark.parametrize(
    ("symbol", "spelled", "path", "currency"),
    [
        ("ACME", "ACME", "stock", "USD"),
        ("BRK.B", "BRK.B", "stock", "USD"),
        ("^GSPC", "^GSPC", "stock", None),
        ("ACME.L", "ACME.L", "stock", None),
        ("7203.T", "7203.T", "stock", None),
        ("ACME.QQ", "ACME.QQ", "stock", None),
        ("EUR/USD", "OANDA:EUR_USD", "forex", "USD"),
        ("usdjpy", "OANDA:USD_JPY", "forex", "JPY"),
        ("OANDA:XAU_USD", "OANDA:XAU_USD", "forex", "USD"),
        ("OANDA:SPX500_USD", "OANDA:SPX500_USD", "forex", "USD"),
        ("FXCM:EUR/GBP", "FXCM:EUR/GBP", "forex", "GBP"),
        ("IC MARKETS:1", "IC MARKETS:1", "forex", None),
        ("BTC/USD", "COINBASE:BTC-USD", "crypto", "USD"),
        ("SOL/USDT", "BINANCE:SOLUSDT", "crypto", "USDT"),
        ("ETH/BTC", "BINANCE:ETHBTC", "crypto", "BTC"),
        ("KRAKEN:EURUSD", "KRAKEN:EURUSD", "crypto", "USD"),
    ],
)
async def test_each_kind_of_symbol_has_its_spelling_endpoint_and_currency(
    symbol: str, spelled: str, path: str, currency: str | None
) -> None:
    (event,), vendor = await fetched(FetchCall("bars", (symbol,), "1d"), candles("2024-03-14"))
    assert (vendor.asked[0].path, vendor.asked[0].params["symbol"]) == (f"/api/v1/{path}/candle", spelled)
    assert (event.symbol, event.currency) == (symbol, currency)


@pytest.mark.parametrize(
    ("timeframe", "resolution"),
    [("1m", "1"), ("5m", "5"), ("15m", "15"), ("30m", "30"), ("1h", "60"), ("1d", "D"), ("1wk", "W"), ("1mo", "M")],
)
async def test_every_timeframe_has_its_resolution_and_the_latest_bars_cost_one_call(timeframe: Timeframe, resolution: str) -> None:
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), timeframe), candles("2024-03-01 14:30"))
    assert [r.params["resolution"] for r in vendor.asked] == [resolution]
    assert len(event.at) == 1


@pytest.mark.parametrize(
    ("symbol", "stamp", "session"),
    [
        ("ACME", "2024-03-14 04:00", "2024-03-14"),  # midnight in New York, in summer
        ("ACME", "2024-01-10 05:00", "2024-01-10"),  # and in winter
        ("ACME", "2024-03-14 00:00", "2024-03-14"),  # newer answers
        ("ACME", "2021-06-10 13:30", "2021-06-10"),  # the opening, which was used for a while
        ("ACME.L", "2023-07-10 23:00", "2023-07-11"),
        ("7203.T", "2024-03-13 15:00", "2024-03-14"),
        ("ACME.AX", "2024-01-09 13:00", "2024-01-10"),
        ("EUR/USD", "2024-03-13 21:00", "2024-03-14"),
        ("EUR/USD", "2024-01-09 22:00", "2024-01-10"),
        ("EUR/USD", "2024-03-14 00:00", "2024-03-14"),
        ("EUR/USD", "2024-03-10 21:00", "2024-03-11"),  # Sunday evening opens Monday
        ("BTC/USD", "2024-03-14 00:00", "2024-03-14"),
    ],
)
async def test_a_daily_bar_has_the_date_of_its_session(symbol: str, stamp: str, session: str) -> None:
    (event,), _ = await fetched(FetchCall("bars", (symbol,), "1d"), candles(stamp))
    assert event.at == [at(session)]


@pytest.mark.parametrize(
    ("symbol", "timeframe", "stamp", "label"),
    [
        ("ACME", "1wk", "2024-03-08 05:00", "2024-03-04"),
        ("EUR/USD", "1wk", "2024-03-10 21:00", "2024-03-11"),
        ("ACME", "1mo", "2024-02-01 05:00", "2024-02-01"),
        ("EUR/USD", "1mo", "2024-01-31 22:00", "2024-02-01"),
    ],
)
async def test_weeks_and_months_begin_with_their_first_day(symbol: str, timeframe: Timeframe, stamp: str, label: str) -> None:
    (event,), _ = await fetched(FetchCall("bars", (symbol,), timeframe), candles(stamp))
    assert event.at == [at(label)]


async def test_daily_prices_are_adjusted_for_splits_and_intraday_prices_of_shares_for_nothing() -> None:
    for symbol, timeframe, basis in (
        ("ACME", "1d", "split"), ("ACME", "1wk", "split"), ("ACME", "5m", "raw"), ("EUR/USD", "5m", "split")
    ):  # fmt: skip
        (event,), _ = await fetched(FetchCall("bars", (symbol,), timeframe), candles("2024-03-14 14:30"))
        assert event.basis == basis


async def test_a_range_of_days_is_one_request_from_the_evening_before_to_its_last_second() -> None:
    call = FetchCall("bars", ("ACME",), "1d", date(2024, 3, 11), date(2024, 3, 14))
    (event,), vendor = await fetched(call, candles("2024-03-08", "2024-03-11", "2024-03-13", "2024-03-14"))
    asked = [(int(r.params["from"]), int(r.params["to"])) for r in vendor.asked]
    assert asked == [(int(at("2024-03-10").timestamp()), int(at("2024-03-13 23:59:59").timestamp()))]
    assert event.at == [at("2024-03-11"), at("2024-03-13")]
    assert (event.asked_from, event.asked_to) == (at("2024-03-11"), at("2024-03-14"))


async def test_long_intraday_ranges_are_asked_in_months_from_the_end() -> None:
    call = FetchCall("bars", ("ACME",), "5m", date(2024, 1, 1), date(2024, 3, 1))
    (event,), vendor = await fetched(call, candles("2024-02-20 15:00"), candles("2024-01-20 15:00"), NO_DATA)
    windows = [int(r.params["to"]) - int(r.params["from"]) for r in vendor.asked]
    assert len(windows) == 3
    assert max(windows) <= 28 * 86400
    assert int(vendor.asked[-1].params["from"]) == int(at("2024-01-01").timestamp())
    assert event.at == [at("2024-01-20 15:00"), at("2024-02-20 15:00")]


async def test_an_answer_that_was_cut_off_is_asked_on_for_what_lies_before() -> None:
    call = FetchCall("bars", ("BITFINEX:BTCUSD",), "1m", date(2024, 3, 14), date(2024, 3, 15))
    late = [at("2024-03-14 22:00") + timedelta(minutes=i) for i in range(120)]
    early = [at("2024-03-14") + timedelta(minutes=i) for i in range(3)]
    (event,), vendor = await fetched(call, candles(*late), candles(*early))
    assert [r.params["to"] for r in vendor.asked] == [
        str(int(at(text).timestamp())) for text in ("2024-03-14 23:59:59", "2024-03-14 21:59:59")
    ]
    assert len(event.at) == 123
    call = FetchCall("bars", ("ACME",), "1d", date(2000, 1, 1), date(2024, 3, 15))
    (event,), vendor = await fetched(call, candles("2004-05-03", "2024-03-14"), candles("2000-01-03"))
    assert len(vendor.asked) == 2
    assert event.at == [at("2000-01-03"), at("2004-05-03"), at("2024-03-14")]


async def test_a_vendor_that_repeats_itself_is_not_asked_for_ever() -> None:
    call = FetchCall("bars", ("BTC/USD",), "1h", date(2024, 3, 1), date(2024, 3, 15))
    (event,), vendor = await fetched(call, candles("2024-03-14 22:00", "2024-03-14 23:00"))
    assert len(vendor.asked) == 2
    assert len(event.at) == 2
    error = await verdict_of(FetchCall("bars", ("ACME",), "1m", date(1900, 1, 1), date(2024, 3, 15)), NO_DATA)
    assert error.verdict is Verdict.BAD_REQUEST


async def test_todays_bar_is_final_when_the_day_is_over_at_its_exchange() -> None:
    for symbol, now, final in (
        ("ACME", datetime(2024, 3, 15, 3, 59, tzinfo=UTC), False),
        ("ACME", datetime(2024, 3, 15, 4, tzinfo=UTC), True),
        ("7203.T", datetime(2024, 3, 14, 15, 14, tzinfo=UTC), False),
        ("7203.T", datetime(2024, 3, 14, 15, 15, tzinfo=UTC), True),
        ("BTC/USD", datetime(2024, 3, 14, 23, 59, tzinfo=UTC), False),
        ("BTC/USD", datetime(2024, 3, 15, tzinfo=UTC), True),
    ):
        answer = await provider().fetch(FetchCall("bars", (symbol,), "1d"), FakeVendor(candles("2024-03-14")), now)
        assert isinstance(answer.events[0], PriceBars)
        assert answer.events[0].final == [final]


async def test_rows_without_a_price_are_left_out_and_missing_columns_are_unknown() -> None:
    body = candles("2024-03-11", "2024-03-12", "2024-03-13", "2024-03-14")
    body |= {"o": [10.0, None, 10.0, 10.0], "c": [11.0, 11.0, 0, "1.1e1"], "v": [500, 500]}
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), body)
    assert (event.at, event.close, event.volume) == ([at("2024-03-11"), at("2024-03-14")], [11.0, 11.0], [500.0, None])
    times = body["t"]
    assert isinstance(times, list)
    times[0] *= 1000
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), body)
    assert event.at == [at("2024-03-14")]
    times[0] //= 1000
    del body["v"]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), body)
    assert event.volume == [None, None]


async def test_no_data_is_an_event_without_rows() -> None:
    call = FetchCall("bars", ("ACME",), "1d", date(2024, 3, 9), date(2024, 3, 11))
    for answer in (NO_DATA, {"c": None, "t": None, "s": "no_data"}, candles()):
        (event,), _ = await fetched(call, answer)
        assert event.at == []


async def test_a_quote_without_a_time_and_changes_is_a_quote() -> None:
    for body, moment in (({}, None), ({"t": 0}, None), ({"t": 1710526500}, at("2024-03-15 18:15"))):
        (event,), vendor = await fetched(
            FetchCall("quote", ("EUR/USD",)), {"c": 20.5, "h": 21, "l": 20, "o": 20, "pc": 21.0, **body}
        )
        assert isinstance(event, PriceQuote)
        assert (event.at, event.price, event.previous_close, event.volume) == (moment, 20.5, 21.0, None)
        assert event.observed_at == (moment or NOW)
        assert vendor.asked[0].params == {"symbol": "OANDA:EUR_USD"}


async def test_a_quote_of_zeros_is_an_unknown_symbol_and_one_without_a_price_is_none() -> None:
    zeros = {"c": 0, "d": None, "dp": None, "h": 0, "l": 0, "o": 0, "pc": 0, "t": 0}
    assert (await verdict_of(FetchCall("quote", ("ACME",)), zeros)).verdict is Verdict.NOT_FOUND
    assert (await verdict_of(FetchCall("quote", ("ACME",)), dict.fromkeys(zeros))).verdict is Verdict.NOT_FOUND
    assert (await verdict_of(FetchCall("quote", ("ACME",)), {**zeros, "pc": 21.0})).verdict is Verdict.EMPTY


async def test_splits_are_new_shares_per_old_and_dividends_are_as_paid_on_their_ex_date() -> None:
    splits = [{"date": "2024-01-22", "fromFactor": 1, "toFactor": 4}, {"date": "2024-02-01", "fromFactor": 10, "toFactor": 1}]
    dividends = [
        {"date": "2024-02-09", "amount": 0.24, "adjustedAmount": 0.06, "payDate": "2024-02-20", "currency": "USD"},
        {"date": "2024-02-12", "amount": 0, "currency": "USD"},
        {"date": "", "amount": 1.0, "currency": "USD"},
        {"date": "2024-03-01", "amount": 0.5, "currency": "USD"},
    ]
    call = FetchCall("actions", ("ACME",), None, date(2024, 1, 1), date(2024, 3, 1))
    (event,), vendor = await fetched(call, splits, dividends)
    assert isinstance(event, PriceActions)
    assert [r.path for r in vendor.asked] == ["/api/v1/stock/split", "/api/v1/stock/dividend"]
    assert (vendor.asked[1].params["from"], vendor.asked[1].params["to"]) == ("2024-01-01", "2024-02-29")
    assert (event.ratio, event.amount, event.currency) == ([4.0, 0.1, None], [None, None, 0.24], "USD")


@pytest.mark.parametrize(
    ("currencies", "amount", "label"),
    [(["GBX", "GBX"], 0.125, "GBP"), (["GBP", "USD"], 12.5, None), ([None, None], 12.5, None)],
)
async def test_dividends_are_in_the_major_unit_of_their_own_currency(currencies: Any, amount: float, label: str | None) -> None:
    dividends = [{"date": f"2024-02-0{i}", "amount": 12.5, "currency": c} for i, c in enumerate(currencies, 1)]
    (event,), _ = await fetched(FetchCall("actions", ("ACME.L",)), [], dividends)
    assert (event.amount, event.currency) == ([amount, amount], label)


async def test_no_actions_are_an_event_without_rows_and_a_pair_has_none() -> None:
    (event,), vendor = await fetched(FetchCall("actions", ("ACME",)), [], [])
    assert event.date == []
    assert vendor.asked[0].params["from"] < "1980"
    vendor = FakeVendor([])
    answer = await provider().fetch(FetchCall("actions", ("BTC/USD",)), vendor, NOW)
    assert answer.failed["BTC/USD"].verdict is Verdict.BAD_REQUEST
    assert not vendor.asked


LIMIT = "API limit reached. Please try again later. Remaining Limit: 0"
RESET = str(int(at("2024-03-15 18:21").timestamp()))


@pytest.mark.parametrize(
    ("answer", "verdict", "retry_at"),
    [
        (reply({"error": LIMIT}, 429), Verdict.RATE_LIMITED, None),
        (reply({"error": LIMIT}, 429, x_ratelimit_reset=RESET), Verdict.RATE_LIMITED, at("2024-03-15 18:21")),
        (reply({"error": LIMIT}, 429, x_ratelimit_reset="1", retry_after="30"), Verdict.RATE_LIMITED, at("2024-03-15 18:20:30")),
        (reply(LIMIT, 429, x_ratelimit_reset=RESET), Verdict.RATE_LIMITED, at("2024-03-15 18:21")),
        (reply({"error": LIMIT}), Verdict.RATE_LIMITED, None),
        (reply(LIMIT), Verdict.RATE_LIMITED, None),
        (reply("<html>slow down</html>", 429), Verdict.RATE_LIMITED, None),
        (reply("<html>moved</html>", 302, location="https://example.com/limits"), Verdict.RATE_LIMITED, None),
        (reply({"error": "You don't have access to this resource."}, 403), Verdict.PLAN_RESTRICTED, None),
        (reply({"error": "You don't have access to this resource."}, 401), Verdict.PLAN_RESTRICTED, None),
        (reply({"error": "Market data subscription required for US stocks."}), Verdict.PLAN_RESTRICTED, None),
        (reply({"error": "Forbidden"}, 403), Verdict.PLAN_RESTRICTED, None),
        (reply({"error": "Invalid API key"}, 401), Verdict.UNAUTHORIZED, None),
        (reply({"error": "Please use an API key."}, 401), Verdict.UNAUTHORIZED, None),
        (reply({"error": f"Token {KEY} is invalid"}, 403), Verdict.UNAUTHORIZED, None),
        (reply({"error": "Symbol not supported"}, 422), Verdict.NOT_FOUND, None),
        (reply({"error": "Invalid symbol"}), Verdict.NOT_FOUND, None),
        (reply({"error": "Wrong resolution"}, 422), Verdict.BAD_REQUEST, None),
        (reply({"error": "Internal error"}, 500), Verdict.SERVER_ERROR, None),
        (reply("<html>502</html>", 502), Verdict.SERVER_ERROR, None),
        (reply("<html>denied</html>", 403), Verdict.SERVER_ERROR, None),
        (reply("<html>welcome</html>"), Verdict.MALFORMED, None),
        (reply({"error": "something new"}), Verdict.MALFORMED, None),
        (reply('{"c": [10.5, 1'), Verdict.MALFORMED, None),
        (reply({}), Verdict.MALFORMED, None),
        (reply({"c": "x" * 5, "s": "ok"}, 400), Verdict.MALFORMED, None),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: object, verdict: Verdict, retry_at: datetime | None) -> None:
    for call in (FetchCall("bars", ("ACME",), "1d"), FetchCall("quote", ("ACME",)), FetchCall("actions", ("ACME",))):
        error = await verdict_of(call, answer)
        assert (error.verdict, error.retry_at) == (verdict, retry_at)
        assert KEY not in error.message


async def test_after_a_limit_the_other_symbols_are_not_asked() -> None:
    vendor = FakeVendor({"c": 20.5, "pc": 21.0}, reply({"error": LIMIT}, 429))
    answer = await provider().fetch(FetchCall("quote", ("ACME", "BOLT", "CORK")), vendor, NOW)
    assert len(vendor.asked) == 2
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert {error.verdict for error in answer.failed.values()} == {Verdict.RATE_LIMITED}
