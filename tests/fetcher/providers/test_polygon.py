from datetime import UTC, date, datetime
from typing import Any

import pytest

from contracts.message import Timeframe
from services.fetcher.provider import Credentials, FetchCall, Verdict
from services.fetcher.providers.polygon import Polygon
from tests.fetcher.fake_vendor import Asking, at, reply

KEY = "canary-7f3a"
NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)
DAYS = FetchCall("bars", ("ACME",), "1d", date(2024, 3, 12), date(2024, 3, 14))


def provider() -> Polygon:
    return Polygon(Credentials(api_key=KEY))


def milliseconds(text: str) -> int:
    return int(at(text).timestamp() * 1000)


def nanoseconds(text: str) -> int:
    return milliseconds(text) * 1_000_000


def row(time: str, close: object = 11.0, **more: object) -> dict[str, object]:
    return {"t": milliseconds(time), "o": 10.0, "h": 12.0, "l": 9.0, "c": close, "v": 500.5, "vw": 10.5, "n": 3, **more}


def page(*rows: object, **more: object) -> dict[str, object]:
    return {"ticker": "ACME", "status": "OK", "adjusted": True, "resultsCount": len(rows), "results": list(rows), **more}


ASKING = Asking(provider, NOW)
answered, fetched, verdict_of = ASKING.answered, ASKING.fetched, ASKING.verdict_of


async def test_the_key_travels_in_a_header() -> None:
    _, vendor = await fetched(DAYS, page())
    assert vendor.asked[0].headers == {"Authorization": f"Bearer {KEY}"}
    assert KEY not in str(vendor.asked[0].params)
    assert vendor.asked[0].params == {"adjusted": "true", "sort": "asc", "limit": "50000"}


@pytest.mark.parametrize(
    ("symbol", "vendors"),
    [
        ("BRK.B", "BRK.B"),
        ("BACpL", "BACpL"),
        ("acme", "ACME"),
        ("ACME240419C00020000", "O:ACME240419C00020000"),
        ("O:ACME240419C00020000", "O:ACME240419C00020000"),
        ("EUR/USD", "C:EURUSD"),
        ("eurusd", "C:EURUSD"),
        ("BTC/USD", "X:BTCUSD"),
        ("x:btcusd", "X:BTCUSD"),
        ("^GSPC", "I:SPX"),
        ("^VIX", "I:VIX"),
        ("I:NDX", "I:NDX"),
    ],
)
def test_symbols_are_spelled_as_the_vendor_does(symbol: str, vendors: str) -> None:
    assert provider().to_vendor(symbol) == vendors


@pytest.mark.parametrize(
    ("timeframe", "window"),
    [("1m", "1/minute"), ("5m", "5/minute"), ("15m", "15/minute"), ("30m", "30/minute"), ("1h", "1/hour")],
)
async def test_minutes_are_asked_for_by_instants_as_our_days_are_not_those_of_new_york(timeframe: Timeframe, window: str) -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), timeframe, date(2024, 3, 12), date(2024, 3, 14)), page())
    first, last = milliseconds("2024-03-12"), milliseconds("2024-03-14") - 1
    assert vendor.asked[0].path == f"/v2/aggs/ticker/ACME/range/{window}/{first}/{last}"


@pytest.mark.parametrize(
    ("timeframe", "path"),
    [
        ("1d", "1/day/2024-03-12/2024-03-13"),
        ("1wk", "1/week/2024-03-11/2024-03-17"),
        ("1mo", "1/month/2024-03-01/2024-03-31"),
    ],
)
async def test_days_weeks_and_months_are_asked_for_whole(timeframe: Timeframe, path: str) -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), timeframe, date(2024, 3, 12), date(2024, 3, 14)), page())
    assert vendor.asked[0].path == f"/v2/aggs/ticker/ACME/range/{path}"


async def test_the_newest_bars_stay_within_what_a_free_key_may_see() -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1d"), page())
    assert vendor.asked[0].path == "/v2/aggs/ticker/ACME/range/1/day/2022-03-18/2024-03-15"


async def test_a_day_is_that_of_new_york_in_summer_and_winter_and_of_a_pair_that_of_utc() -> None:
    call = FetchCall("bars", ("ACME", "BTC/USD"), "1d", date(2024, 3, 8), date(2024, 3, 12))
    rows = page(row("2024-03-08T05:00"), row("2024-03-11T04:00"))
    (acme, btc), _ = await fetched(call, rows, page(row("2024-03-08T00:00"), row("2024-03-09T00:00")))
    assert acme.at == [at("2024-03-08"), at("2024-03-11")]
    assert btc.at == [at("2024-03-08"), at("2024-03-09")]
    assert (acme.basis, acme.feed, acme.volume) == ("split", "sip", [500.5, 500.5])


@pytest.mark.parametrize("sunday", ["2024-03-10T05:00", "2023-11-05T04:00", "2024-03-03T05:00"])
async def test_a_week_that_begins_on_sunday_is_labelled_by_its_monday_when_clocks_change_too(sunday: str) -> None:
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1wk"), page(row(sunday)))
    assert [(at(sunday) - stamp).days for stamp in event.at] == [-1]
    assert event.at[0].weekday() == 0


async def test_todays_bar_is_final_when_the_day_is_over_in_new_york() -> None:
    for now, final in ((NOW, [True, False]), (datetime(2024, 3, 16, 4, 15, tzinfo=UTC), [True, True])):
        (event,), _ = await fetched(
            FetchCall("bars", ("ACME",), "1d"), page(row("2024-03-14T04:00"), row("2024-03-15T04:00")), now=now
        )
        assert event.final == final


async def test_pages_are_followed_on_our_host_with_what_their_links_leave_out() -> None:
    link = "https://api.massive.com/v2/aggs/ticker/ACME/range/1/day/1710302400000/2024-03-13?cursor=bGlt&apiKey=other"
    (event,), vendor = await fetched(DAYS, page(row("2024-03-12T04:00"), next_url=link), page(row("2024-03-13T04:00")))
    assert vendor.asked[1].path == "/v2/aggs/ticker/ACME/range/1/day/1710302400000/2024-03-13"
    assert vendor.asked[1].params == {"adjusted": "true", "sort": "asc", "limit": "50000", "cursor": "bGlt"}
    assert vendor.asked[1].headers == vendor.asked[0].headers
    assert event.at == [at("2024-03-12"), at("2024-03-13")]


async def test_a_link_that_repeats_ends_the_pages() -> None:
    link = "https://api.polygon.io/v2/aggs/ticker/ACME/range/1/day/1/2?cursor=same"
    (event,), vendor = await fetched(DAYS, page(row("2024-03-12T04:00"), next_url=link))
    assert (len(vendor.asked), len(event.at)) == (2, 1)


@pytest.mark.parametrize(
    "document",
    [
        {"status": "OK", "resultsCount": 0, "queryCount": 0, "adjusted": True},
        {"status": "DELAYED", "resultsCount": 0, "results": None},
        {"status": "OK", "results": []},
        {"results": [None, {"c": 1}, row("2024-03-12T04:00", None)]},
    ],
)
async def test_no_bars_are_an_empty_range_in_every_shape(document: dict[str, object]) -> None:
    (event,), _ = await fetched(DAYS, document)
    assert (event.at, event.asked_from, event.asked_to) == ([], at("2024-03-12"), at("2024-03-14"))


async def test_prices_that_the_answer_calls_unadjusted_belong_to_another_series() -> None:
    (event,), _ = await fetched(DAYS, page(row("2024-03-12T04:00"), adjusted=False))
    assert event.basis == "raw"


async def test_an_index_has_no_volume_and_no_currency() -> None:
    bare = {name: value for name, value in row("2024-03-12T05:00").items() if name != "v"}
    (event,), vendor = await fetched(FetchCall("bars", ("^GSPC",), "1d", date(2024, 3, 12), date(2024, 3, 13)), page(bare))
    assert vendor.asked[0].path.startswith("/v2/aggs/ticker/I:SPX/")
    assert (event.at, event.volume, event.currency) == ([at("2024-03-12")], [None], None)


SHARES = ("ACME", "BOLT", "CORK")


async def test_several_shares_share_the_days_of_the_market_when_that_is_less_than_a_call_each() -> None:
    call = FetchCall("bars", (*SHARES, "BTC/USD"), "1d", date(2024, 3, 8), date(2024, 3, 12))
    friday = page({"T": "ACME", **row("2024-03-08T21:00")}, {"T": "BOLT", **row("2024-03-08T21:00")})
    monday = page({"T": "ACME", **row("2024-03-11T20:00")})
    (acme, bolt, cork, btc), vendor = await fetched(call, friday, monday, page())
    grouped = "/v2/aggs/grouped/locale/us/market/stocks/"
    assert [request.path for request in vendor.asked][:2] == [f"{grouped}2024-03-08", f"{grouped}2024-03-11"]
    assert "X:BTCUSD" in vendor.asked[2].path
    assert (acme.at, bolt.at, cork.at) == ([at("2024-03-08"), at("2024-03-11")], [at("2024-03-08")], [])
    assert (cork.asked_from, btc.at) == (at("2024-03-08"), [])


async def test_many_days_of_few_shares_are_asked_for_one_by_one() -> None:
    _, vendor = await fetched(FetchCall("bars", SHARES, "1d", date(2024, 3, 4), date(2024, 3, 14)), page())
    assert [request.path.split("/")[4] for request in vendor.asked] == list(SHARES)


async def test_a_key_that_may_not_see_today_yet_still_sees_the_days_before() -> None:
    call = FetchCall("bars", SHARES, "1d", date(2024, 3, 14), date(2024, 3, 16))
    refused = {"status": "NOT_AUTHORIZED", "message": "Attempted to request today's data before end of day."}
    (acme, *_), _ = await fetched(call, page({"T": "ACME", **row("2024-03-14T20:00")}), reply(refused, 403))
    assert acme.at == [at("2024-03-14")]
    error = await verdict_of(FetchCall("bars", SHARES, "1d", date(2024, 3, 15), date(2024, 3, 16)), reply(refused, 403))
    assert error.verdict is Verdict.PLAN_RESTRICTED


SNAPSHOT = {
    "ticker": "ACME",
    "updated": nanoseconds("2024-03-15T18:19:59"),
    "day": {"o": 22, "h": 23, "l": 21, "c": 22.4, "v": 31000},
    "min": {"c": 22.3, "v": 10},
    "lastTrade": {"p": 22.4, "t": nanoseconds("2024-03-15T18:19:50")},
    "lastQuote": {"p": 22.35, "P": 22.45, "t": nanoseconds("2024-03-15T18:19:58")},
    "prevDay": {"c": 21.9, "v": 28000},
}
ZEROS = {"o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "p": 0, "P": 0, "t": 0}


async def spot_of(**changes: object) -> Any:
    (event,), _ = await fetched(FetchCall("quote", ("ACME",)), {"status": "OK", "ticker": SNAPSHOT | changes})
    return event


async def test_small_letters_are_the_bid_and_capital_ones_the_ask() -> None:
    event = await spot_of()
    assert (event.bid, event.ask, event.price, event.previous_close) == (22.35, 22.45, 22.4, 21.9)
    assert (event.at, event.observed_at) == (at("2024-03-15 18:19:58"), at("2024-03-15 18:19:58"))


@pytest.mark.parametrize("nothing", [None, {}, ZEROS])
async def test_what_the_key_may_not_see_or_did_not_happen_is_unknown(nothing: object) -> None:
    event = await spot_of(lastQuote=nothing)
    assert (event.bid, event.ask, event.at) == (None, None, at("2024-03-15 18:19:50"))
    event = await spot_of(lastQuote=nothing, lastTrade=nothing)
    assert (event.price, event.at) == (22.3, at("2024-03-15 18:19:59"))
    event = await spot_of(day=nothing, min=nothing, prevDay=nothing)
    assert (event.price, event.volume, event.previous_close) == (22.4, None, None)


async def test_a_snapshot_of_nothing_is_empty() -> None:
    bare = {"ticker": "ACME", "day": ZEROS, "min": ZEROS, "prevDay": {"c": 21.9}, "updated": 0}
    error = await verdict_of(FetchCall("quote", ("ACME",)), {"status": "OK", "ticker": bare})
    assert error.verdict is Verdict.EMPTY


async def test_quotes_of_several_markets_are_asked_for_where_each_is() -> None:
    call = FetchCall("quote", ("ACME", "BOLT", "BTC/USD", "O:SPXW240419C05000000", "ACME240419C00020000"))
    crypto = SNAPSHOT | {
        "ticker": "X:BTCUSD",
        "lastTrade": {"p": 68000.5, "t": milliseconds("2024-03-15T18:19:57")},
        "lastQuote": None,
    }
    answer, vendor = await answered(
        call,
        {"status": "OK", "tickers": [SNAPSHOT, SNAPSHOT | {"ticker": "BOLT"}]},
        {"status": "OK", "ticker": crypto},
        {"status": "OK", "results": contract("O:SPXW240419C05000000")},
        {"status": "DELAYED", "results": contract("O:ACME240419C00020000")},
    )
    assert [request.path for request in vendor.asked] == [
        "/v2/snapshot/locale/us/markets/stocks/tickers",
        "/v2/snapshot/locale/global/markets/crypto/tickers/X:BTCUSD",
        "/v3/snapshot/options/I:SPX/O:SPXW240419C05000000",
        "/v3/snapshot/options/ACME/O:ACME240419C00020000",
    ]
    assert vendor.asked[0].params == {"tickers": "ACME,BOLT"}
    quotes: list[Any] = list(answer.events)
    assert [quote.feed for quote in quotes] == ["sip", "sip", "consolidated", "consolidated", "delayed"]
    assert (quotes[2].at, quotes[2].price, quotes[2].currency) == (at("2024-03-15 18:19:57"), 68000.5, "USD")


async def test_an_index_that_is_unknown_or_not_for_this_key_has_its_own_error() -> None:
    rows = [
        {"ticker": "I:SPX", "value": 5117.1, "last_updated": nanoseconds("2024-03-15T18:19:00")},
        {"ticker": "I:NOPE", "error": "NOT_FOUND", "message": "Ticker not found."},
        {"ticker": "I:NDX", "error": "NOT_ENTITLED", "message": "Not entitled to this ticker."},
    ]
    answer, vendor = await answered(FetchCall("quote", ("^GSPC", "I:NOPE", "^NDX")), {"status": "OK", "results": rows})
    assert vendor.asked[0].params["ticker.any_of"] == "I:SPX,I:NOPE,I:NDX"
    verdicts = {symbol: error.verdict for symbol, error in answer.failed.items()}
    assert verdicts == {"I:NOPE": Verdict.NOT_FOUND, "^NDX": Verdict.PLAN_RESTRICTED}
    assert [event.symbol for event in answer.events] == ["^GSPC"]


def contract(ticker: str, **changes: object) -> dict[str, object]:
    return {
        "details": {"ticker": ticker, "contract_type": "call", "expiration_date": "2024-04-19", "strike_price": 20},
        "day": {"close": 1.2, "volume": 8, "previous_close": 1.1, "last_updated": nanoseconds("2024-03-15T04:00")},
        "greeks": {"delta": 0.5, "gamma": 0.1, "theta": -0.1, "vega": 0.2},
        "implied_volatility": 0.25,
        "last_quote": {"bid": 1.2, "ask": 1.3, "midpoint": 1.25, "last_updated": nanoseconds("2024-03-15T18:00")},
        "open_interest": 7,
    } | changes


async def chain_of(*contracts: object, **more: object) -> Any:
    (event,), _ = await fetched(FetchCall("chain", ("ACME",)), {"status": "OK", "results": list(contracts), **more})
    return event


async def test_a_chain_keeps_what_was_not_computed_unknown() -> None:
    event = await chain_of(
        contract("O:A"),
        contract("O:B", greeks={}, implied_volatility=None, last_quote={}, last_trade={"price": 0.9, "sip_timestamp": 0}),
        contract("O:C", implied_volatility=0, last_quote={"bid": 0, "ask": 0, "midpoint": 0, "last_updated": 0}, day={}),
    )
    assert (event.iv, event.delta) == ([0.25, None, None], [0.5, None, None])
    assert (event.bid, event.mark, event.last) == ([1.2, None, None], [1.25, None, None], [1.2, 0.9, None])
    assert event.at == [at("2024-03-15 18:00"), None, None]
    assert (event.volume, event.open_interest, event.currency) == ([8.0, 8.0, None], [7.0] * 3, "USD")


async def test_volume_of_an_option_that_was_not_traded_today_is_unknown() -> None:
    event = await chain_of(contract("O:A", day={"close": 1.0, "volume": 9, "last_updated": nanoseconds("2024-03-14T04:00")}))
    assert (event.volume, event.last) == ([None], [1.0])


async def test_what_is_neither_call_nor_put_is_no_contract_of_a_chain() -> None:
    odd = contract("O:A", details={"ticker": "O:A", "contract_type": "other", "expiration_date": "2024-04-19", "strike_price": 20})
    assert (await chain_of(odd, None, {}, contract("O:B"))).contract == ["O:B"]


async def test_a_delayed_chain_says_so() -> None:
    quote = {"bid": 1.2, "ask": 1.3, "timeframe": "DELAYED"}
    assert (await chain_of(contract("O:A", last_quote=quote))).feed == "delayed"
    assert (await chain_of(contract("O:A"))).feed == "consolidated"


async def test_the_chain_of_an_index_is_kept_under_the_index() -> None:
    _, vendor = await fetched(FetchCall("chain", ("^GSPC",)), {"status": "OK", "results": []})
    assert vendor.asked[0].path == "/v3/snapshot/options/I:SPX"


async def test_splits_and_dividends_are_searched_for_by_their_day() -> None:
    call = FetchCall("actions", ("ACME",), None, date(2024, 1, 1), date(2024, 3, 1))
    split = {"ticker": "ACME", "execution_date": "2024-01-22", "split_from": 8, "split_to": 1}
    dividend = {"ticker": "ACME", "ex_dividend_date": "2024-02-09", "cash_amount": 0.35, "currency": "CAD"}
    (event,), vendor = await fetched(call, {"status": "OK", "results": [split]}, {"status": "OK", "results": [dividend]})
    assert vendor.asked[0].params.items() >= {"execution_date.gte": "2024-01-01", "execution_date.lt": "2024-03-01"}.items()
    assert vendor.asked[1].params.items() >= {"ticker": "ACME", "ex_dividend_date.gte": "2024-01-01", "limit": "1000"}.items()
    assert (event.kind, event.ratio, event.amount) == (["split", "dividend"], [0.125, None], [None, 0.35])
    assert event.currency == "CAD"


async def test_who_never_split_is_not_unknown_when_there_were_dividends() -> None:
    unknown = reply({"status": "NOT_FOUND", "message": "not found"}, 404)
    dividend = {"ticker": "ACME", "ex_dividend_date": "2024-02-09", "cash_amount": 0.35}
    (event,), _ = await fetched(FetchCall("actions", ("ACME",)), unknown, {"status": "OK", "results": [dividend]})
    assert (event.kind, event.currency) == (["dividend"], "USD")
    assert (await verdict_of(FetchCall("actions", ("ACME",)), unknown)).verdict is Verdict.NOT_FOUND


@pytest.mark.parametrize(("dataset", "symbol"), [("actions", "BTC/USD"), ("actions", "^GSPC"), ("chain", "EUR/USD")])
async def test_pairs_and_indices_have_no_actions_and_pairs_no_chain(dataset: Any, symbol: str) -> None:
    answer, vendor = await answered(FetchCall(dataset, (symbol,)), page())
    assert (answer.failed[symbol].verdict, vendor.asked) == (Verdict.BAD_REQUEST, [])


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (429, {"status": "ERROR", "error": "You've exceeded the maximum requests per minute."}, Verdict.RATE_LIMITED),
        (200, {"status": "ERROR", "error": "You've exceeded the maximum requests per minute."}, Verdict.RATE_LIMITED),
        (200, "You've exceeded the maximum requests per minute", Verdict.RATE_LIMITED),
        (401, {"status": "ERROR", "error": "Unknown API Key"}, Verdict.UNAUTHORIZED),
        (401, {"status": "ERROR", "error": "API Key was not provided"}, Verdict.UNAUTHORIZED),
        (401, {"status": "ERROR"}, Verdict.UNAUTHORIZED),
        (200, {"status": "AUTH_FAILED", "message": "authentication failed"}, Verdict.UNAUTHORIZED),
        (403, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data."}, Verdict.PLAN_RESTRICTED),
        (200, {"status": "NOT_AUTHORIZED", "message": "Please upgrade your plan."}, Verdict.PLAN_RESTRICTED),
        (403, {"status": "NOT_AUTHORIZED", "message": "Your plan doesn't include this data timeframe."}, Verdict.PLAN_RESTRICTED),
        (403, {"status": "ERROR", "error": "Unknown API Key"}, Verdict.UNAUTHORIZED),
        (403, "<html>blocked</html>", Verdict.SERVER_ERROR),
        (404, {"status": "NOT_FOUND", "message": "Ticker not found."}, Verdict.NOT_FOUND),
        (404, {"status": "NotFound", "message": "ticker not found"}, Verdict.NOT_FOUND),
        (200, {"status": "NOT_FOUND"}, Verdict.NOT_FOUND),
        (404, {}, Verdict.NOT_FOUND),
        (404, "404 page not found", Verdict.MALFORMED),
        (400, {"status": "ERROR", "error": "Could not parse the time parameter: 'from'."}, Verdict.BAD_REQUEST),
        (500, {"status": "ERROR", "error": "internal"}, Verdict.SERVER_ERROR),
        (504, "upstream request timeout", Verdict.SERVER_ERROR),
        (200, {"something": "else"}, Verdict.MALFORMED),
    ],
)
async def test_every_refusal_has_its_verdict(status: int, body: object, verdict: Verdict) -> None:
    assert (await verdict_of(DAYS, reply(body, status))).verdict is verdict


async def test_a_throttled_key_comes_back_when_the_named_window_is_over() -> None:
    words = {"status": "ERROR", "error": "You've exceeded the maximum requests per minute, please wait."}
    assert (await verdict_of(DAYS, reply(words, 429))).retry_at == at("2024-03-15 18:21")
    assert (await verdict_of(DAYS, reply(words, 429, retry_after="120"))).retry_at == at("2024-03-15 18:22")


async def test_the_key_in_the_vendors_words_is_never_passed_on() -> None:
    error = await verdict_of(DAYS, reply({"status": "ERROR", "error": f"bad parameter {KEY} see https://polygon.io/docs"}, 400))
    assert KEY not in str(error)
    assert "://" not in error.message
