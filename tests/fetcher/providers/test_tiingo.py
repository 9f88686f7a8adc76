from datetime import UTC, date, datetime
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceActions, PriceBars, PriceQuote
from services.fetcher.provider import Credentials, FetchCall, Verdict
from services.fetcher.providers.tiingo import Tiingo
from tests.fetcher.fake_vendor import Asking, FakeVendor, at, reply

KEY = "canary-7f3a"
NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)


def provider() -> Tiingo:
    return Tiingo(Credentials(api_key=KEY))


def row(day: str, close: float = 11.0, **more: object) -> dict[str, object]:
    return {"date": day, "open": 10.0, "high": 12.0, "low": 9.0, "close": close, "volume": 500, **more}


ASKING = Asking(provider, NOW)
fetched, verdict_of = ASKING.fetched, ASKING.verdict_of


async def test_the_key_travels_in_a_header() -> None:
    _, vendor = await fetched(FetchCall("bars", ("BRK.B",), "1d"), [])
    assert vendor.asked[0].headers["Authorization"] == f"Token {KEY}"
    assert vendor.asked[0].path == "/tiingo/daily/BRK-B/prices"
    assert KEY not in str(vendor.asked[0].params)


@pytest.mark.parametrize(
    ("symbol", "timeframe", "path", "params"),
    [
        ("ACME", "1wk", "/tiingo/daily/ACME/prices", {"resampleFreq": "weekly"}),
        ("ACME", "1mo", "/tiingo/daily/ACME/prices", {"resampleFreq": "monthly"}),
        ("ACME", "15m", "/iex/ACME/prices", {"resampleFreq": "15min", "columns": "open,high,low,close,volume"}),
        ("ACME", "1h", "/iex/ACME/prices", {"resampleFreq": "1hour"}),
        ("EUR/USD", "1d", "/tiingo/fx/eurusd/prices", {"resampleFreq": "1day"}),
        ("eurusd", "5m", "/tiingo/fx/eurusd/prices", {"resampleFreq": "5min"}),
        ("BTC/USD", "1d", "/tiingo/crypto/prices", {"tickers": "btcusd", "resampleFreq": "1day"}),
        ("solusdt", "30m", "/tiingo/crypto/prices", {"tickers": "solusdt", "resampleFreq": "30min"}),
    ],
)
async def test_each_kind_of_series_has_its_path(symbol: str, timeframe: Timeframe, path: str, params: dict[str, str]) -> None:
    _, vendor = await fetched(FetchCall("bars", (symbol,), timeframe), [])
    assert vendor.asked[0].path == path
    assert vendor.asked[0].params.items() >= params.items()


async def test_the_vendors_last_day_is_part_of_its_answer_ours_is_not_of_the_range() -> None:
    rows = [row("2024-03-12T00:00:00.000Z"), row("2024-03-13T00:00:00.000Z"), row("2024-03-14T00:00:00.000Z")]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 12), date(2024, 3, 14)), rows)
    assert (vendor.asked[0].params["startDate"], vendor.asked[0].params["endDate"]) == ("2024-03-12", "2024-03-13")
    assert event.at == [at("2024-03-12"), at("2024-03-13")]


@pytest.mark.parametrize("day", ["2024-03-14T00:00:00.000Z", "2024-03-14T00:00:00+00:00", "2024-03-14"])
async def test_a_session_date_is_taken_as_it_is_written(day: str) -> None:
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), [row(day)])
    assert event.at == [at("2024-03-14")]
    assert (event.basis, event.feed, event.currency) == ("raw", "eod", "USD")


async def test_weeks_are_asked_whole_and_labelled_by_their_monday() -> None:
    rows = [row("2024-03-08T00:00:00.000Z", adjClose=10.5), row("2024-03-14T00:00:00.000Z", adjClose=11.0)]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1wk", date(2024, 3, 6), date(2024, 3, 13)), rows)
    assert (vendor.asked[0].params["startDate"], vendor.asked[0].params["endDate"]) == ("2024-03-04", "2024-03-17")
    assert (event.at, event.final) == ([at("2024-03-04"), at("2024-03-11")], [True, False])
    assert event.adjusted_close == [10.5, 11.0]


async def test_todays_bar_is_final_when_the_day_is_over_in_new_york() -> None:
    rows = [row("2024-03-14T00:00:00.000Z"), row("2024-03-15T00:00:00.000Z")]
    for now, final in (
        (NOW, [True, False]),
        (datetime(2024, 3, 16, 3, 59, tzinfo=UTC), [True, False]),
        (datetime(2024, 3, 16, 4, tzinfo=UTC), [True, True]),
    ):
        answer = await provider().fetch(FetchCall("bars", ("ACME",), "1d"), FakeVendor(rows), now)
        assert isinstance(answer.events[0], PriceBars)
        assert answer.events[0].final == final


async def test_intraday_volume_is_null_where_the_vendor_gives_none() -> None:
    rows = [row("2024-03-15T13:30:00.000Z"), {**row("2024-03-15T14:00:00.000Z"), "volume": None}]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "30m"), rows)
    assert (event.at, event.volume) == ([at("2024-03-15 13:30"), at("2024-03-15 14:00")], [500.0, None])
    assert event.feed == "iex"


async def test_long_intraday_ranges_are_asked_in_windows_below_the_vendors_cap() -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1m", date(2024, 2, 1), date(2024, 2, 20)), [])
    spans = [(r.params["startDate"], r.params["endDate"]) for r in vendor.asked]
    assert spans == [("2024-02-01", "2024-02-07"), ("2024-02-08", "2024-02-14"), ("2024-02-15", "2024-02-19")]
    _, vendor = await fetched(FetchCall("bars", ("BTC/USD",), "1m", date(2024, 2, 1), date(2024, 2, 4)), [])
    assert len(vendor.asked) == 3


async def test_a_currencys_day_that_opens_in_the_evening_has_the_date_it_closes_on() -> None:
    for opens, session in (
        ("2024-03-13T21:00:00.000Z", "2024-03-14"),
        ("2024-01-09T22:00:00.000Z", "2024-01-10"),
        ("2024-03-14T00:00:00.000Z", "2024-03-14"),
    ):
        (event,), _ = await fetched(FetchCall("bars", ("EUR/USD",), "1d"), [{**row(opens), "ticker": "eurusd"}])
        assert event.at == [at(session)]


async def test_rows_of_other_tickers_are_not_ours() -> None:
    rows = [
        {**row("2024-03-14T00:00:00+00:00", 10.5), "ticker": "BOLT"},
        {**row("2024-03-14T00:00:00+00:00", 11.5), "ticker": "acme"},
    ]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), rows)
    assert event.close == [11.5]


async def test_a_csv_answer_is_read_by_its_header() -> None:
    text = "date,close,high,low,open,volume,adjClose\r\n2024-03-14,11.0,12.0,9.0,10.0,500,10.5\r\n"
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), text)
    assert (event.open, event.close, event.adjusted_close) == ([10.0], [11.0], [10.5])


async def test_a_crypto_answer_may_hold_other_pairs_and_says_what_it_is_quoted_in() -> None:
    def pair(ticker: str, quote: str, close: float) -> dict[str, object]:
        return {
            "ticker": ticker,
            "quoteCurrency": quote,
            "priceData": [{**row("2024-03-14T00:00:00+00:00", close), "low": 1e-9, "high": 1e9}],
        }

    (event,), _ = await fetched(
        FetchCall("bars", ("fldcbtc",), "1d"), [pair("btcusd", "usd", 68000.5), pair("fldcbtc", "btc", 1.8e-7)]
    )
    assert (event.symbol, event.close, event.currency, event.feed) == ("fldcbtc", [1.8e-7], "BTC", "consolidated")
    (event,), _ = await fetched(FetchCall("bars", ("fldcbtc",), "1d"), [pair("btcusd", "usd", 68000.5)])
    assert event.at == []


@pytest.mark.parametrize(
    ("symbol", "dataset", "timeframe"), [("BTC/USD", "bars", "1wk"), ("EUR/USD", "bars", "1mo"), ("BTC/USD", "actions", None)]
)
async def test_what_a_pair_does_not_have_costs_no_call(symbol: str, dataset: Any, timeframe: Any) -> None:
    vendor = FakeVendor([])
    answer = await provider().fetch(FetchCall(dataset, (symbol,), timeframe), vendor, NOW)
    assert answer.failed[symbol].verdict is Verdict.BAD_REQUEST
    assert not vendor.asked


HOURLY = "You have run over your hourly request allocation. Please upgrade at https://api.example.com/pricing"
MONTHLY = "You have run over your 500 symbol look up for this month. Please upgrade"


@pytest.mark.parametrize(
    ("answer", "verdict", "retry_at"),
    [
        (reply({"detail": f"Error: {HOURLY}"}, 429), Verdict.RATE_LIMITED, datetime(2024, 3, 15, 19, tzinfo=UTC)),
        (f"Error: {HOURLY}", Verdict.RATE_LIMITED, datetime(2024, 3, 15, 19, tzinfo=UTC)),
        ("Error: You have run over your daily request allocation.", Verdict.RATE_LIMITED, datetime(2024, 3, 16, 4, tzinfo=UTC)),
        (MONTHLY, Verdict.RATE_LIMITED, datetime(2024, 4, 1, 4, tzinfo=UTC)),
        (reply(f'"{MONTHLY}"'), Verdict.RATE_LIMITED, datetime(2024, 4, 1, 4, tzinfo=UTC)),
        (reply({"detail": HOURLY}, 429, retry_after="30"), Verdict.RATE_LIMITED, datetime(2024, 3, 15, 18, 20, 30, tzinfo=UTC)),
        (reply({"detail": "Error: Ticker 'ACME' not found"}, 404), Verdict.NOT_FOUND, None),
        (reply({"detail": "Not found."}, 404), Verdict.NOT_FOUND, None),
        (reply({"detail": "Invalid token."}, 401), Verdict.UNAUTHORIZED, None),
        (reply({"detail": "Invalid token."}, 403), Verdict.UNAUTHORIZED, None),
        (reply({"detail": "You do not have permission to access this data"}, 403), Verdict.PLAN_RESTRICTED, None),
        (reply(["Error: resampleFreq must be one of daily, weekly"], 400), Verdict.BAD_REQUEST, None),
        ("Error: startDate is after endDate", Verdict.BAD_REQUEST, None),
        (reply("<html>502</html>", 502), Verdict.SERVER_ERROR, None),
        (reply("", 404), Verdict.MALFORMED, None),
        ("<html>hello</html>", Verdict.MALFORMED, None),
        ('[{"date": "2024-03-14T00', Verdict.MALFORMED, None),
        ({}, Verdict.MALFORMED, None),
        ({"ticker": "ACME", "name": "Acme Corp"}, Verdict.MALFORMED, None),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: object, verdict: Verdict, retry_at: datetime | None) -> None:
    for call in (
        FetchCall("bars", ("ACME",), "1d"),
        FetchCall("bars", ("ACME",), "5m"),
        FetchCall("quote", ("ACME",)),
        FetchCall("actions", ("ACME",)),
    ):
        error = await verdict_of(call, answer)
        assert (error.verdict, error.retry_at) == (verdict, retry_at)
        assert "://" not in error.message


async def test_no_rows_are_an_event_without_rows() -> None:
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 9), date(2024, 3, 11)), [])
    assert event.at == []


async def test_splits_and_cash_are_read_from_daily_rows() -> None:
    rows = [
        {"date": "2024-01-22T00:00:00.000Z", "divCash": 0.0, "splitFactor": 4.0},
        {"date": "2024-02-09T00:00:00.000Z", "divCash": 0.24, "splitFactor": 1.0},
        {"date": "2024-02-12T00:00:00.000Z", "divCash": 0.0, "splitFactor": 1.0},
    ]
    (event,), vendor = await fetched(FetchCall("actions", ("ACME",)), rows)
    assert isinstance(event, PriceActions)
    assert (event.kind, event.ratio, event.amount) == (["split", "dividend"], [4.0, None], [None, 0.24])
    assert vendor.asked[0].params["startDate"] < "1990"


IEX = {
    "ticker": "ACME",
    "timestamp": "2024-03-15T14:19:59.000000001-04:00",
    "last": None,
    "tngoLast": 20.5,
    "prevClose": 21.0,
    "volume": 90,
}
FX = {
    "ticker": "eurusd",
    "quoteTimestamp": "2024-03-15T18:19:58.500000+00:00",
    "midPrice": 1.0885,
    "bidPrice": 1.0884,
    "askPrice": 1.0886,
}
CRYPTO = {
    "ticker": "btcusd",
    "quoteCurrency": "usd",
    "topOfBookData": [{"lastPrice": 68500.5, "lastSaleTimestamp": "2024-03-15T18:19:00+00:00"}],
}


async def test_quotes_of_each_kind_share_a_request_and_come_back_under_the_asked_names() -> None:
    call = FetchCall("quote", ("ACME", "EUR/USD", "BRK.B", "BTC/USD"))
    events, vendor = await fetched(
        call, [IEX, {**IEX, "ticker": "BRK-B", "last": 40.5, "bidPrice": 0, "askPrice": -1}], [CRYPTO], [FX]
    )
    assert [(r.path, r.params["tickers"]) for r in vendor.asked] == [
        ("/iex/", "ACME,BRK-B"), ("/tiingo/crypto/top", "btcusd"), ("/tiingo/fx/top", "eurusd")
    ]  # fmt: skip
    quotes = {event.symbol: event for event in events if isinstance(event, PriceQuote)}
    assert {symbol: quote.price for symbol, quote in quotes.items()} == {
        "ACME": 20.5,
        "BRK.B": 40.5,
        "BTC/USD": 68500.5,
        "EUR/USD": 1.0885,
    }
    assert (quotes["BRK.B"].bid, quotes["BRK.B"].ask) == (None, None)
    assert quotes["ACME"].at == datetime(2024, 3, 15, 18, 19, 59, tzinfo=UTC)
    assert [quotes[s].currency for s in ("ACME", "BTC/USD", "EUR/USD")] == ["USD"] * 3
    assert [quotes[s].feed for s in ("ACME", "BTC/USD", "EUR/USD")] == ["iex", "consolidated", "consolidated"]


async def test_a_quote_that_is_left_out_is_not_taken_for_an_unknown_symbol() -> None:
    answer = await provider().fetch(FetchCall("quote", ("ACME", "GONE")), FakeVendor([IEX]), NOW)
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["GONE"].verdict is Verdict.EMPTY


async def test_one_kind_of_quotes_may_fail_and_the_other_still_comes() -> None:
    answer = await provider().fetch(FetchCall("quote", ("ACME", "EUR/USD")), FakeVendor([IEX], reply("", 503)), NOW)
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["EUR/USD"].verdict is Verdict.SERVER_ERROR
