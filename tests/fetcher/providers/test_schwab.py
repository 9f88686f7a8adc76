import asyncio
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from contracts.message import Timeframe
from contracts.price_events import PriceBars, PriceChain, PriceQuote
from services.fetcher.auth.tokens import InMemoryTokenStore
from services.fetcher.provider import Credentials, FetchCall, ProviderError, Reply, StoredValue, Verdict
from services.fetcher.providers.schwab import Schwab
from tests.fetcher.fake_vendor import FakeVendor, Request, reply

KEY, SECRET, REFRESH = "app-7f3a", "secret-9b1c", "refresh-4d2e@"
NOW = datetime(2024, 3, 15, 18, 20, tzinfo=UTC)
LOGIN = "/v1/oauth/token"
UNAUTHORIZED = reply({"errors": [{"id": "0f0e", "status": 401, "title": "Unauthorized"}]}, 401)
DEAD = {
    "error": "unsupported_token_type",
    "error_description": '400 Bad Request: "{"error":"refresh_token_authentication_error"}"',
}


class PlayedSchwab(FakeVendor):
    """Gives numbered access tokens at its login, or `refusal`, and the answers anywhere else: in turn, or by a function."""

    def __init__(self, *answers: object, refusal: Reply | None = None, by: Callable[[Request], object] | None = None) -> None:
        super().__init__(*answers)
        self._refusal = refusal
        self._by = by

    def _answer(self, request: Request) -> Reply:
        if request.path != LOGIN:
            if self._by is None:
                return super()._answer(request)
            self.asked.append(request)
            answer = self._by(request)
            return answer if isinstance(answer, Reply) else reply(answer)
        self.asked.append(request)
        number = len(self.logins)
        return self._refusal or reply({"access_token": f"access-{number}", "refresh_token": f"next-{number}", "expires_in": 1800})

    @property
    def logins(self) -> list[Request]:
        return [request for request in self.asked if request.path == LOGIN]

    @property
    def data(self) -> list[Request]:
        return [request for request in self.asked if request.path != LOGIN]


def provider(**options: str) -> Schwab:
    return Schwab(Credentials(api_key=KEY, api_secret=SECRET, refresh_token=REFRESH, options=options))


def ms(text: str) -> int:
    return int(at(text).timestamp() * 1000)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def candle(stamp: object, close: object = 11.0, **more: object) -> dict[str, object]:
    return {"open": 10.0, "high": 12.0, "low": 9.0, "close": close, "volume": 500, "datetime": stamp, **more}


def history(*candles: object) -> dict[str, object]:
    return {"symbol": "ACME", "empty": not candles, "candles": list(candles)}


def option(symbol: str, **more: object) -> dict[str, object]:
    return {
        "putCall": "CALL", "symbol": symbol, "bid": 1.2, "ask": 1.4, "last": 1.3, "mark": 1.3, "totalVolume": 5, "openInterest": 7,
        "volatility": 40.0, "delta": 0.5, "gamma": 0.1, "theta": -0.1, "vega": 0.2, "rho": 0.01, "strikePrice": 20.0,
        "quoteTimeInLong": ms("2024-03-15 18:19"), "tradeTimeInLong": ms("2024-03-15 17:00"), **more,
    }  # fmt: skip


def chain(*rows: dict[str, object], day: str = "2024-04-19", **more: object) -> dict[str, object]:
    return {
        "symbol": "ACME",
        "status": "SUCCESS",
        "callExpDateMap": {f"{day}:35": {"20.0": list(rows)}},
        "putExpDateMap": {},
        **more,
    }


async def fetched(call: FetchCall, *answers: object) -> tuple[list[Any], PlayedSchwab]:
    vendor = PlayedSchwab(*answers)
    answer = await provider().fetch(call, vendor, NOW)
    assert not answer.failed
    return list(answer.events), vendor


async def verdict_of(call: FetchCall, *answers: object, **played: Any) -> tuple[ProviderError, PlayedSchwab]:
    vendor = PlayedSchwab(*answers, **played)
    try:
        answer = await provider().fetch(call, vendor, NOW)
    except ProviderError as error:
        return error, vendor
    assert not answer.events
    return next(iter(answer.failed.values())), vendor


async def contracts(*rows: dict[str, object], **more: object) -> PriceChain:
    (event,), _ = await fetched(FetchCall("chain", ("ACME",)), chain(*rows, **more))
    assert isinstance(event, PriceChain)
    return event


async def quote(entry: dict[str, object], symbol: str = "ACME") -> PriceQuote:
    (event,), _ = await fetched(FetchCall("quote", (symbol,)), {symbol: {"symbol": symbol, **entry}})
    assert isinstance(event, PriceQuote)
    return event


# The login


async def test_the_application_and_the_refresh_token_go_to_the_login_and_only_the_access_token_to_the_data() -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1d"), history())
    login, data = vendor.asked
    assert (login.method, login.path) == ("POST", LOGIN)
    assert login.params == {"grant_type": "refresh_token", "refresh_token": REFRESH}
    assert login.headers["Authorization"] == f"Basic {b64encode(f'{KEY}:{SECRET}'.encode()).decode()}"
    assert data.headers["Authorization"] == "Bearer access-1"
    assert not {KEY, SECRET, REFRESH} & set(data.params.values())


async def test_one_access_token_serves_all_calls_of_half_an_hour_also_those_at_once() -> None:
    adapter, vendor = provider(), PlayedSchwab(history())
    call = FetchCall("bars", ("ACME",), "1d")
    await asyncio.gather(*(adapter.fetch(call, vendor, NOW) for _ in range(10)))
    await adapter.fetch(call, vendor, NOW)
    assert (len(vendor.logins), len(vendor.data)) == (1, 11)


async def test_a_refused_access_token_is_renewed_once_with_the_newest_refresh_token() -> None:
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1d"), UNAUTHORIZED, history(candle(ms("2024-03-14 05:00"))))
    assert event.close == [11.0]
    assert [request.params["refresh_token"] for request in vendor.logins] == [REFRESH, "next-1"]
    assert [request.headers["Authorization"] for request in vendor.data] == ["Bearer access-1", "Bearer access-2"]


@pytest.mark.parametrize("body", [UNAUTHORIZED, reply({"errors": [{"status": "401", "title": "Unauthorized"}]}), reply("", 401)])
async def test_an_access_token_that_is_refused_again_is_the_end(body: Reply) -> None:
    error, vendor = await verdict_of(FetchCall("quote", ("ACME",)), body)
    assert error.verdict is Verdict.UNAUTHORIZED
    assert (len(vendor.logins), len(vendor.data)) == (2, 2)


async def test_an_edge_servers_block_is_no_word_on_the_token() -> None:
    error, vendor = await verdict_of(FetchCall("quote", ("ACME",)), reply("<HTML>Access Denied</HTML>", 403, server="AkamaiGHost"))
    assert error.verdict is Verdict.SERVER_ERROR
    assert len(vendor.logins) == 1


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (reply(DEAD, 400), Verdict.UNAUTHORIZED),
        (reply({"error": "invalid_client", "error_description": f"Unauthorized {SECRET}"}, 401), Verdict.UNAUTHORIZED),
        (reply({"error": "unauthorized_client"}, 401), Verdict.UNAUTHORIZED),
        (reply({"error": "temporarily_unavailable"}, 400), Verdict.SERVER_ERROR),
        (reply({"error": "server_error"}, 500), Verdict.SERVER_ERROR),
        (reply("<HTML>Access Denied</HTML>", 403), Verdict.SERVER_ERROR),
        (reply("", 429), Verdict.RATE_LIMITED),
        (reply("upstream request timeout", 504), Verdict.SERVER_ERROR),
        (reply({"token_type": "Bearer"}), Verdict.MALFORMED),
        (reply([1]), Verdict.MALFORMED),
    ],
)
async def test_every_way_in_which_the_login_fails_has_its_verdict(answer: Reply, verdict: Verdict) -> None:
    error, vendor = await verdict_of(FetchCall("bars", ("ACME", "BOLT"), "1d"), history(), refusal=answer)
    assert error.verdict is verdict
    assert not vendor.data
    assert SECRET not in str(error)
    if verdict is Verdict.UNAUTHORIZED:
        assert len(vendor.logins) == 1


async def test_a_dead_refresh_token_is_not_tried_again() -> None:
    adapter, vendor = provider(), PlayedSchwab(history(), refusal=reply(DEAD, 400))
    for _ in range(3):
        with pytest.raises(ProviderError) as caught:
            await adapter.fetch(FetchCall("bars", ("ACME",), "1d"), vendor, NOW)
        assert caught.value.verdict is Verdict.UNAUTHORIZED
        assert "log in again" in caught.value.message
    assert len(vendor.logins) == 1


async def test_tokens_are_kept_where_the_access_says_so() -> None:
    store, vendor = InMemoryTokenStore(), PlayedSchwab(history())
    for _ in range(2):
        adapter = Schwab(Credentials(api_key=KEY, api_secret=SECRET, refresh_token=REFRESH, tokens=store))
        await adapter.fetch(FetchCall("bars", ("ACME",), "1d"), vendor, NOW)
    assert len(vendor.logins) == 1
    assert await store.read() != StoredValue()


def test_when_the_person_logged_in_is_an_instant_or_refused() -> None:
    provider(logged_in_at="2024-03-15T08:00:00Z")
    with pytest.raises(ValueError, match="logged_in_at is no instant"):
        provider(logged_in_at="yesterday")


def test_a_login_shows_nowhere() -> None:
    assert not any(
        secret in repr(Credentials(KEY, SECRET, REFRESH, tokens=InMemoryTokenStore())) for secret in (KEY, SECRET, REFRESH)
    )


# Symbols


@pytest.mark.parametrize(
    ("symbol", "vendors"),
    [
        ("ACME", "ACME"),
        ("BRK.B", "BRK/B"),
        ("^GSPC", "$SPX"),
        ("^IXIC", "$COMPX"),
        ("^VIX", "$VIX"),
        ("$DJI", "$DJI"),
        ("ES=F", "/ES"),
        ("/ESM24", "/ESM24"),
        ("EUR/USD", "EUR/USD"),
        ("EURUSD", "EUR/USD"),
        ("EURUSD=X", "EUR/USD"),
        ("O:SPY251219C00650000", "SPY   251219C00650000"),
        ("SPY251219C00650000", "SPY   251219C00650000"),
        ("SPXW  250520C05660000", "SPXW  250520C05660000"),
    ],
)
def test_a_symbol_has_its_spelling(symbol: str, vendors: str) -> None:
    assert provider().to_vendor(symbol) == vendors
    assert provider().to_vendor(vendors) == vendors


# Bars


@pytest.mark.parametrize(
    ("timeframe", "kind"),
    [
        ("1m", ("day", "minute", "1")),
        ("5m", ("day", "minute", "5")),
        ("15m", ("day", "minute", "15")),
        ("30m", ("day", "minute", "30")),
        ("1d", ("year", "daily", "1")),
        ("1wk", ("year", "weekly", "1")),
        ("1mo", ("year", "monthly", "1")),
    ],
)
async def test_a_timeframe_is_a_period_type_and_a_frequency(timeframe: Timeframe, kind: tuple[str, str, str]) -> None:
    _, vendor = await fetched(FetchCall("bars", ("BRK.B",), timeframe, date(2024, 3, 1), date(2024, 3, 8)), history())
    params = vendor.data[0].params
    assert (params["periodType"], params["frequencyType"], params["frequency"]) == kind
    assert "period" not in params
    assert (params["symbol"], params["needExtendedHoursData"]) == ("BRK/B", "false")


async def test_hours_are_not_offered() -> None:
    with pytest.raises(ProviderError) as caught:
        await provider().fetch(FetchCall("bars", ("ACME",), "1h"), PlayedSchwab(history()), NOW)
    assert caught.value.verdict is Verdict.BAD_REQUEST


async def test_the_last_day_of_a_range_is_asked_for_and_the_day_after_is_not_in_it() -> None:
    days = [candle(ms(f"2024-03-{day} 05:00")) for day in ("12", "13", "14")]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 12), date(2024, 3, 14)), history(*days))
    assert event.at == [at("2024-03-12"), at("2024-03-13")]
    assert int(vendor.data[0].params["startDate"]) <= ms("2024-03-12 05:00") <= ms("2024-03-13 05:00")
    assert ms("2024-03-13 05:00") < int(vendor.data[0].params["endDate"])


@pytest.mark.parametrize(
    ("stamp", "session"),
    [
        ("2024-03-08 06:00", "2024-03-08"),  # midnight in Chicago, winter
        ("2024-03-11 05:00", "2024-03-11"),  # and summer
        ("2024-03-10 22:00", "2024-03-11"),  # a session that opens the evening before
        ("2024-03-11 04:00", "2024-03-11"),  # midnight in New York
        ("2024-03-11 00:00", "2024-03-11"),
    ],
)
async def test_a_day_has_the_date_of_its_session(stamp: str, session: str) -> None:
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), history(candle(ms(stamp))))
    assert event.at == [at(session)]
    assert (event.basis, event.feed, event.currency) == ("split", "consolidated", "USD")


async def test_weeks_and_months_are_asked_whole_and_labelled_by_their_first_day() -> None:
    weeks = [candle(ms("2024-02-26 06:00")), candle(ms("2024-03-05 06:00")), candle(ms("2024-03-11 05:00"))]
    (event,), vendor = await fetched(FetchCall("bars", ("ACME",), "1wk", date(2024, 3, 6), date(2024, 3, 13)), history(*weeks))
    assert (event.at, event.final) == ([at("2024-03-04"), at("2024-03-11")], [True, False])
    assert int(vendor.data[0].params["startDate"]) <= ms("2024-03-04 06:00")
    assert int(vendor.data[0].params["endDate"]) >= ms("2024-03-18 00:00")
    months = [candle(ms("2024-02-01 06:00")), candle(ms("2024-03-01 06:00"))]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1mo", date(2024, 2, 10), date(2024, 3, 2)), history(*months))
    assert (event.at, event.final) == ([at("2024-02-01"), at("2024-03-01")], [True, False])


async def test_todays_bar_is_final_when_the_day_is_over_in_new_york() -> None:
    for now, final in ((NOW, False), (at("2024-03-16 03:59"), False), (at("2024-03-16 04:00"), True)):
        answer = await provider().fetch(
            FetchCall("bars", ("ACME",), "1d"), PlayedSchwab(history(candle(ms("2024-03-15 05:00")))), now
        )
        assert isinstance(answer.events[0], PriceBars)
        assert answer.events[0].final == [final]


async def test_minutes_beyond_the_range_are_not_ours_though_whole_days_come() -> None:
    minutes = [candle(ms("2024-03-13 19:59")), candle(ms("2024-03-14 13:30")), candle(ms("2024-03-15 13:30"))]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1m", date(2024, 3, 14), date(2024, 3, 15)), history(*minutes))
    assert event.at == [at("2024-03-14 13:30")]


async def test_a_minute_under_way_is_not_final() -> None:
    (event,), _ = await fetched(
        FetchCall("bars", ("ACME",), "5m"), history(candle(ms("2024-03-15 18:15")), candle(ms("2024-03-15 18:20")))
    )
    assert event.final == [True, False]


async def test_the_order_of_candles_and_twins_among_them_do_not_matter() -> None:
    rows = [candle(ms("2024-03-14 05:00"), 11.5), candle(ms("2024-03-13 05:00")), candle(ms("2024-03-14 05:00"), 11.75)]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), history(*rows))
    assert (event.at, event.close) == ([at("2024-03-13"), at("2024-03-14")], [11.0, 11.75])


@pytest.mark.parametrize("unknown", [0, 0.0, -999, -999.0, "NaN", None, "", -1])
@pytest.mark.parametrize("field", ["open", "high", "low", "close"])
async def test_what_is_no_price_makes_no_bar(unknown: object, field: str) -> None:
    rows = [candle(ms("2024-03-13 05:00")), {**candle(ms("2024-03-14 05:00")), field: unknown}, None, {}, {"datetime": 0}]
    (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d"), history(*rows))
    assert event.at == [at("2024-03-13")]


async def test_a_volume_of_nothing_is_unknown_for_indices_and_pairs_only() -> None:
    for symbol, volume in (("ACME", 0.0), ("BRK.B", 0.0), ("^GSPC", None), ("EUR/USD", None)):
        (event,), _ = await fetched(FetchCall("bars", (symbol,), "1d"), history(candle(ms("2024-03-14 05:00"), volume=0)))
        assert event.volume == [volume]


async def test_numbers_may_be_written_in_any_way_and_a_pair_is_in_its_second_currency() -> None:
    row = candle(ms("2024-03-14 05:00"), "1.1E1", volume="3.5E2")
    (event,), _ = await fetched(FetchCall("bars", ("EUR/JPY",), "1d"), history(row))
    assert (event.close, event.volume, event.currency) == ([11.0], [350.0], "JPY")


async def test_an_empty_history_is_an_event_without_rows() -> None:
    for answer in (history(), {"symbol": "ACME", "empty": True}):
        (event,), _ = await fetched(FetchCall("bars", ("ACME",), "1d", date(2024, 3, 9), date(2024, 3, 11)), answer)
        assert event.at == []


async def test_years_before_1970_are_asked_from_1970_on() -> None:
    _, vendor = await fetched(FetchCall("bars", ("ACME",), "1d", date(1962, 1, 1), date(2024, 3, 1)), history())
    assert vendor.data[0].params["startDate"] == "0"


# Quotes


async def test_the_price_is_the_last_one_of_all_hours_and_the_close_is_the_one_before() -> None:
    entry: dict[str, object] = {
        "assetMainType": "EQUITY",
        "realtime": True,
        "quote": {"lastPrice": 20.5, "bidPrice": 20.4, "askPrice": 20.6, "closePrice": 20.0, "totalVolume": 9.5e3,
                  "quoteTime": ms("2024-03-15 12:59"), "tradeTime": ms("2024-03-15 12:58")},
        "regular": {"regularMarketLastPrice": 20.25, "regularMarketTradeTime": ms("2024-03-14 20:00")},
        "extended": {"lastPrice": 19.0, "quoteTime": ms("2024-03-15 12:30")},
    }  # fmt: skip
    event = await quote(entry)
    assert (event.price, event.bid, event.ask, event.previous_close, event.volume) == (20.5, 20.4, 20.6, 20.0, 9500.0)
    assert event.at == event.observed_at == at("2024-03-15 12:59")
    assert event.feed == "consolidated"


@pytest.mark.parametrize("unknown", [0, -999.0, "NaN", None])
async def test_what_is_not_known_of_a_quote_is_null(unknown: object) -> None:
    block = dict.fromkeys(("bidPrice", "closePrice", "quoteTime", "tradeTime"), unknown)
    event = await quote({"assetMainType": "EQUITY", "quote": {"lastPrice": 20.5, "askPrice": 21.0, "totalVolume": 0, **block}})
    assert (event.bid, event.ask, event.previous_close, event.at, event.volume) == (None, 21.0, None, None, 0.0)


async def test_an_index_has_only_a_trade_and_no_volume() -> None:
    block = {"lastPrice": 5100.5, "closePrice": 5090.0, "totalVolume": 0, "tradeTime": ms("2024-03-15 18:00")}
    event = await quote({"assetMainType": "INDEX", "quote": block}, "$SPX")
    assert (event.price, event.bid, event.volume, event.at) == (5100.5, None, None, at("2024-03-15 18:00"))


async def test_a_fund_has_its_net_asset_value() -> None:
    event = await quote({"assetMainType": "MUTUAL_FUND", "quote": {"nAV": 11.75, "closePrice": 11.5, "totalVolume": 0}}, "ACMFX")
    assert (event.price, event.previous_close, event.volume) == (11.75, 11.5, None)


async def test_a_future_is_answered_as_the_contract_that_is_active() -> None:
    entry = {"symbol": "/ESM24", "quote": {"lastPrice": 5170.25, "mark": 0}, "reference": {"product": "/ES"}}
    (event,), _ = await fetched(FetchCall("quote", ("ES=F",)), {"/ESM24": entry})
    assert (event.symbol, event.price) == ("ES=F", 5170.25)


async def test_an_options_padding_does_not_keep_it_from_being_found() -> None:
    name = "ACME  240419C00020000"
    (event,), vendor = await fetched(FetchCall("quote", ("O:ACME240419C00020000",)), {name: {"quote": {"lastPrice": 1.5}}})
    assert (event.symbol, event.price) == ("O:ACME240419C00020000", 1.5)
    assert vendor.data[0].params["symbols"] == name


async def test_a_delayed_quote_is_of_another_feed() -> None:
    assert (await quote({"realtime": False, "quote": {"lastPrice": 20.5}})).feed == "delayed"


async def test_an_older_quote_without_blocks_is_read_too() -> None:
    event = await quote({"assetType": "EQUITY", "lastPrice": 20.5, "closePrice": 20.0, "quoteTimeInLong": ms("2024-03-15 18:00")})
    assert (event.price, event.previous_close, event.at) == (20.5, 20.0, at("2024-03-15 18:00"))


async def test_the_list_of_unknown_symbols_is_no_quote() -> None:
    body = {
        "ACME": {"quote": {"lastPrice": 20.5}},
        "BOLT": {"assetMainType": "EQUITY", "quote": {"lastPrice": 0, "bidPrice": 0}},
        "errors": {"invalidSymbols": ["NOSUCH"], "invalidCusips": ["123456789"]},
    }
    call = FetchCall("quote", ("ACME", "NOSUCH", "123456789", "BOLT", "LEFTOUT"))
    answer = await provider().fetch(call, PlayedSchwab(body), NOW)
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == {
        "NOSUCH": Verdict.NOT_FOUND,
        "123456789": Verdict.NOT_FOUND,
        "BOLT": Verdict.EMPTY,
        "LEFTOUT": Verdict.NOT_FOUND,
    }


async def test_long_lists_are_asked_in_addresses_below_2000_characters() -> None:
    symbols = tuple(f"O:ACME240419C{strike:08d}" for strike in range(20000, 20200))
    call = FetchCall("quote", symbols)

    def answer(request: Request) -> object:
        return {name: {"quote": {"lastPrice": 1.5}} for name in request.params["symbols"].split(",")}

    vendor = PlayedSchwab(by=answer)
    events = (await provider().fetch(call, vendor, NOW)).events
    assert [event.symbol for event in events] == list(symbols)
    assert len(vendor.data) == 3
    assert all(len(request.params["symbols"].replace(",", "%2C")) < 1850 for request in vendor.data)


async def test_when_schwab_is_tired_half_way_the_rest_is_not_asked() -> None:
    symbols = tuple(f"O:ACME240419C{strike:08d}" for strike in range(20000, 20200))
    first = {f"ACME  240419C{strike:08d}": {"quote": {"lastPrice": 1.5}} for strike in range(20000, 20200)}
    vendor = PlayedSchwab(first, reply("", 429))
    answer = await provider().fetch(FetchCall("quote", symbols), vendor, NOW)
    assert len(answer.events) + len(answer.failed) == 200
    assert {error.verdict for error in answer.failed.values()} == {Verdict.RATE_LIMITED}
    assert len(vendor.data) == 2


# Chains


async def test_a_chain_of_all_expirations_is_one_call_if_it_fits() -> None:
    body = chain(option("ACME  240419C00020000")) | {
        "putExpDateMap": {"2024-06-21:98": {"20.0": [option("ACME  240621P00020000", putCall="PUT", delta=-0.5)]}}
    }
    (event,), vendor = await fetched(FetchCall("chain", ("^GSPC",)), body)
    assert (event.right, event.expiry) == (["call", "put"], [date(2024, 4, 19), date(2024, 6, 21)])
    assert (event.iv, event.delta) == ([0.4, 0.4], [0.5, -0.5])
    params = vendor.data[0].params
    assert (params["symbol"], params["contractType"]) == ("$SPX", "ALL")
    assert not {"fromDate", "toDate", "strikeCount", "range"} & set(params)


@pytest.mark.parametrize("sentinel", [-999.0, -999, "NaN", "-999.0"])
@pytest.mark.parametrize("field", ["volatility", "delta", "gamma", "theta", "vega", "rho"])
async def test_one_sentinel_among_the_greeks_and_none_was_computed(field: str, sentinel: object) -> None:
    event = await contracts(option("ACME  240419C00020000", **{field: sentinel}))
    assert (event.iv, event.delta, event.gamma, event.theta, event.vega) == ([None],) * 5
    assert event.bid == [1.2]


async def test_greeks_of_nothing_without_a_volatility_were_not_computed_and_small_ones_with_one_were() -> None:
    nothing = dict.fromkeys(("volatility", "delta", "gamma", "theta", "vega", "rho"), 0)
    event = await contracts(
        option("A", **nothing),
        option("B", **{**nothing, "volatility": 147.5}),
        option("C", volatility=0, delta=1.0),
        option("D", theta=-1.0, delta=-1.0),
    )
    assert event.iv == [None, 1.475, None, 0.4]
    assert event.delta == [None, 0.0, 1.0, -1.0]
    assert event.theta == [None, 0.0, -0.1, -1.0]


async def test_what_a_dead_contract_says_is_unknown() -> None:
    dead = dict.fromkeys(("bid", "ask", "last", "mark", "quoteTimeInLong", "tradeTimeInLong", "lastTradingDay"), 0)
    event = await contracts(option("ACME  240419C00020000", **dead), option("B", bid=-1, mark="NaN", ask=None, totalVolume=-1))
    assert (event.bid, event.ask, event.last, event.mark) == ([None, None], [None, None], [None, 1.3], [None, None])
    assert event.at[0] is None
    assert event.volume == [5.0, None]


async def test_a_contract_without_a_quotes_time_has_its_last_trades() -> None:
    event = await contracts(option("ACME  240419C00020000", quoteTimeInLong=0))
    assert event.at == [at("2024-03-15 17:00")]


async def test_an_open_interest_of_nothing_is_unknown_until_its_series_has_been_published() -> None:
    new = await contracts(option("A", openInterest=0), option("B", openInterest=0))
    assert new.open_interest == [None, None]
    old = await contracts(option("A", openInterest=0), option("B", openInterest=3))
    assert old.open_interest == [0.0, 3.0]


async def test_adjusted_deliverables_share_a_strike() -> None:
    event = await contracts(option("ACME  240419C00020000"), option("ACME1 240419C00020000", nonStandard=True))
    assert event.contract == ["ACME  240419C00020000", "ACME1 240419C00020000"]


async def test_the_expiry_is_the_keys_and_the_strike_may_be_too() -> None:
    row = option("SPXW  240419C00020500", expirationDate="2024-04-20T01:00:00.000+00:00")
    del row["strikePrice"]
    (event,), _ = await fetched(FetchCall("chain", ("$SPX",)), {"callExpDateMap": {"2024-04-19:35": {"20.5": [row]}}})
    assert (event.expiry, event.strike) == ([date(2024, 4, 19)], [20.5])


async def test_the_documented_names_of_prices_are_read_too() -> None:
    row = option("A", bid=None, ask=None, last=None, mark=None, bidPrice=2.0, askPrice=2.2, lastPrice=2.1, markPrice=2.1)
    event = await contracts(row)
    assert (event.bid, event.ask, event.last, event.mark) == ([2.0], [2.2], [2.1], [2.1])


async def test_a_delayed_chain_is_of_another_feed() -> None:
    assert (await contracts(option("A"), isDelayed=True)).feed == "delayed"


async def test_no_contracts_are_an_event_without_rows() -> None:
    (event,), _ = await fetched(FetchCall("chain", ("ACME",)), {"status": "FAILED", "callExpDateMap": {}, "putExpDateMap": {}})
    assert event.contract == []


OVERFLOW = {"fault": {"faultstring": "Body buffer overflow", "detail": {"errorcode": "protocol.http.TooBigBody"}}}
DAYS = [date(2024, 4, 19) + timedelta(days=7 * week) for week in range(5)]
EXPIRATIONS = {"expirationList": [{"expirationDate": str(day), "standard": True} for day in DAYS]}


def large(limit: int, refusal: object) -> Callable[[Request], object]:
    """A Schwab that passes on so many contracts at most; each expiration has one call and one put."""

    def answer(request: Request) -> object:
        if request.path.endswith("/expirationchain"):
            return EXPIRATIONS
        first, last = request.params.get("fromDate", "2000"), request.params.get("toDate", "3000")
        days = [day for day in DAYS if first <= str(day) <= last]
        sides = [side for side in ("CALL", "PUT") if request.params["contractType"] in ("ALL", side)]
        if len(days) * len(sides) > limit:
            return refusal
        maps = {
            f"{side.lower()}ExpDateMap": {f"{day}:1": {"20.0": [option(f"ACME  {day:%y%m%d}{side[0]}00020000")]} for day in days}
            for side in sides
        }
        return {"status": "SUCCESS", **maps}

    return answer


@pytest.mark.parametrize(
    "refusal",
    [
        reply(OVERFLOW, 502),
        reply({"message": "Body buffer overflow"}, 400),
        reply("<html>502 Bad Gateway</html>", 502),
        reply(chain(option("A"), isChainTruncated=True)),
    ],
)
@pytest.mark.parametrize("limit", [6, 4, 2, 1])
async def test_a_chain_that_is_too_large_is_asked_in_parts_and_comes_whole(limit: int, refusal: Reply) -> None:
    adapter, vendor = provider(), PlayedSchwab(by=large(limit, refusal))
    for _ in range(2):
        (event,) = (await adapter.fetch(FetchCall("chain", ("ACME",)), vendor, NOW)).events
        assert isinstance(event, PriceChain)
        assert len(event.contract) == len(set(event.contract)) == 10
        assert sorted(set(event.expiry)) == DAYS


async def test_what_fitted_last_time_is_asked_for_at_once_next_time() -> None:
    adapter, vendor = provider(), PlayedSchwab(by=large(6, reply(OVERFLOW, 502)))
    await adapter.fetch(FetchCall("chain", ("ACME",)), vendor, NOW)
    before = len(vendor.data)
    await adapter.fetch(FetchCall("chain", ("ACME",)), vendor, NOW)
    assert [request.path.rsplit("/", 1)[1] for request in vendor.data[before:]] == ["expirationchain", "chains", "chains"]


async def test_a_chain_that_fits_in_no_part_fails_as_a_whole() -> None:
    error, vendor = await verdict_of(FetchCall("chain", ("ACME",)), by=large(0, reply(OVERFLOW, 502)))
    assert error.verdict is Verdict.SERVER_ERROR
    assert len(vendor.data) < 10


# Errors


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (reply({"errors": [{"id": "1", "status": "404", "title": "Not Found"}]}, 404), Verdict.NOT_FOUND),
        (reply({"errors": [{"id": "1", "status": 404, "title": "Not Found"}]}), Verdict.NOT_FOUND),
        (reply({"errors": [{"status": "400", "title": "Bad Request", "detail": "Invalid symbol: A"}]}, 400), Verdict.NOT_FOUND),
        (reply({"errors": [{"status": "400", "detail": "Missing header"}, {"status": "400"}]}, 400), Verdict.BAD_REQUEST),
        (reply({"errors": [{"title": "Bad Request"}]}, 400), Verdict.BAD_REQUEST),
        (reply({"errors": []}, 400), Verdict.BAD_REQUEST),
        (reply({"message": "enddate is before startdate"}, 400), Verdict.BAD_REQUEST),
        (reply({"errors": [{"status": 403, "title": "Forbidden"}]}, 403), Verdict.PLAN_RESTRICTED),
        (reply({"errors": [{"status": "429", "title": "Too Many Requests"}]}, 429), Verdict.RATE_LIMITED),
        (reply("", 429), Verdict.RATE_LIMITED),
        (reply("Too Many Requests"), Verdict.RATE_LIMITED),
        (
            reply(
                {"fault": {"faultstring": "Spike arrest", "detail": {"errorcode": "policies.ratelimit.SpikeArrestViolation"}}}, 500
            ),
            Verdict.RATE_LIMITED,
        ),
        (reply({"errors": [{"status": 500, "title": "Internal Server Error"}]}, 500), Verdict.SERVER_ERROR),
        (reply({"errors": [{"status": "503", "title": "Service Unavailable"}]}), Verdict.SERVER_ERROR),
        (reply("upstream request timeout", 504), Verdict.TIMEOUT),
        (reply("upstream request timeout"), Verdict.TIMEOUT),
        (reply("<html>503</html>", 503), Verdict.SERVER_ERROR),
        (reply("<html>hello</html>"), Verdict.MALFORMED),
        (reply('{"candles": [{"open'), Verdict.MALFORMED),
        (reply({"a": 1, "b": 2}, 302), Verdict.SERVER_ERROR),
    ],
)
async def test_every_way_to_fail_has_its_verdict(answer: Reply, verdict: Verdict) -> None:
    for call in (
        FetchCall("bars", ("ACME",), "1d"),
        FetchCall("bars", ("ACME",), "5m"),
        FetchCall("quote", ("ACME",)),
        FetchCall("chain", ("ACME",)),
    ):
        error, vendor = await verdict_of(call, answer)
        assert error.verdict is verdict
        assert len(vendor.logins) == 1


async def test_it_is_said_when_to_come_back() -> None:
    error, _ = await verdict_of(FetchCall("quote", ("ACME",)), reply("", 429, retry_after="30"))
    assert error.retry_at == NOW + timedelta(seconds=30)


@pytest.mark.parametrize("answer", [{}, {"candles": None}, {"callExpDateMap": []}, {"expirationList": 5}])
async def test_another_shape_is_no_answer(answer: object) -> None:
    for call in (FetchCall("bars", ("ACME",), "1d"), FetchCall("chain", ("ACME",))):
        error, _ = await verdict_of(call, answer)
        assert error.verdict is Verdict.MALFORMED


@pytest.mark.parametrize("answer", [[], 17, None, "null", {"ACME": None}, {"ACME": 5}, {"ACME": {"quote": []}}])
async def test_a_strange_answer_to_quotes_brings_no_price(answer: object) -> None:
    error, _ = await verdict_of(FetchCall("quote", ("ACME",)), reply(answer))
    assert error.verdict in (Verdict.MALFORMED, Verdict.NOT_FOUND, Verdict.EMPTY)


async def test_unknown_symbols_in_place_of_a_history_or_a_chain_are_not_found() -> None:
    for call in (FetchCall("bars", ("ACME",), "1d"), FetchCall("chain", ("ACME",))):
        error, _ = await verdict_of(call, {"errors": {"invalidSymbols": ["ACME"]}})
        assert error.verdict is Verdict.NOT_FOUND


async def test_one_unknown_symbol_does_not_take_the_others_along() -> None:
    missing = reply({"errors": [{"status": "404", "title": "Not Found"}]}, 404)
    vendor = PlayedSchwab(missing, history(candle(ms("2024-03-14 05:00"))))
    answer = await provider().fetch(FetchCall("bars", ("NOSUCH", "ACME"), "1d"), vendor, NOW)
    assert [event.symbol for event in answer.events] == ["ACME"]
    assert answer.failed["NOSUCH"].verdict is Verdict.NOT_FOUND


async def test_secrets_in_the_vendors_words_are_not_repeated() -> None:
    words = f"token access-1 of {KEY} {SECRET} {REFRESH}"
    error, _ = await verdict_of(FetchCall("quote", ("ACME",)), reply({"errors": [{"status": 400, "detail": words}]}, 400))
    assert not any(secret in str(error) for secret in ("access-1", KEY, SECRET, REFRESH))
