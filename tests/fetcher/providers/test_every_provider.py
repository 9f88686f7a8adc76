"""What every adapter holds to. A new one is found by its folder, and fails until it has fixtures of its own."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest

from contracts.message import TIMEFRAMES
from contracts.price_events import PriceBars
from services.fetcher.calls.validation import validate
from services.fetcher.provider import FetchCall, ProviderError, Verdict
from tests.fetcher.fake_vendor import FakeVendor, reply
from tests.fetcher.providers.adapter_harness import ADAPTERS, ASKING, CASES, KEY, built, call_of, fixtures, records, some_call

NOW = datetime(2024, 3, 15, 21, 30, tzinfo=UTC)
FEEDS = {"eod", "delayed", "iex", "venue", "sip", "consolidated", "synthetic"}
ODD_ANSWERS = {
    "nothing": reply(""),
    "a page": reply("<html><body>Please enable JavaScript</body></html>"),
    "half an object": reply('{"chart": {"result": [{"meta": {"curr'),
    "half a table": reply("date,close,hi"),
    "an empty object": reply({}),
    "an empty list": reply([]),
    "null": reply("null"),
    "a number": reply("17"),
    "a list of numbers": reply([1, 2]),
    "a null chart": reply({"chart": None}),
    "nulls in place of rows": reply({"chart": {"result": [None], "error": None}}),
    "another shape": reply({"data": {"AAPL": [{"o": 1}]}}),
    "no text": reply(b"\xff\xfe\x00\x80"),
    "too many requests": reply("Too Many Requests", 429),
    "a consent page": reply("", 302, location=f"https://consent.example.com/?key={KEY}"),
    "a refused key": reply({"detail": f"Invalid token {KEY}."}, 401),
    "an edge server's block": reply("<html>Access Denied</html>", 403),
    "a failing server": reply("upstream request timeout", 504),
    "its key in its words": reply(
        {"Information": f"We have detected your API key as {KEY} and 25 requests per day is the rate limit"}
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_dataset_a_provider_offers_is_shown_by_a_fixture(name: str) -> None:
    shown = {case["call"]["dataset"] for case in fixtures(name).values() if case["expect"]["rows"]}
    assert shown >= set(ADAPTERS[name].profile.offers), f"write tests/fetcher/fixtures/{name}/*.json"


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_profile_is_in_the_terms_of_the_contracts(name: str) -> None:
    profile = ADAPTERS[name].profile
    assert profile.name == name
    assert profile.feed in FEEDS
    assert profile.base_url.startswith("https://") or not profile.real
    assert set(profile.offers.get("bars", ())) <= set(TIMEFRAMES)
    assert set(profile.symbols_per_call) <= set(profile.offers)
    assert set(profile.secrets) <= {"api_key", "api_secret", "refresh_token"}


@pytest.mark.parametrize(("name", "case"), CASES)
async def test_a_documented_answer_becomes_these_events(name: str, case: str) -> None:
    fixture = fixtures(name)[case]
    expect, call, now = fixture["expect"], call_of(fixture["call"]), datetime.fromisoformat(fixture["now"])
    replies = fixture.get("replies", [])
    vendor = FakeVendor(*(reply(r["body"], r.get("status", 200), **r.get("headers", {})) for r in replies))
    answer = await built(name).fetch(call, vendor, now)
    assert [request.path for request in vendor.asked] == [r["path"] for r in replies]
    rows = records(answer)
    assert len(rows) == expect["rows"]
    assert not rows or {key: rows[0][key] for key in expect.get("first", {})} == expect.get("first", {})
    assert {symbol: error.verdict for symbol, error in answer.failed.items()} == expect.get("failed", {})
    for event in answer.events:
        assert event.symbol in call.symbols
        assert (event.provider, event.fetched_at) == (name, now)
        assert event.feed in FEEDS
        if isinstance(event, PriceBars):
            assert (event.timeframe, event.basis) == (call.timeframe, ADAPTERS[name].profile.basis)
            assert (event.asked_from is None) == (call.start is None)
            assert validate(event, now) == (event, [])


@pytest.mark.parametrize("oddity", ODD_ANSWERS)
@pytest.mark.parametrize("name", ASKING)
async def test_an_odd_answer_brings_a_verdict_and_never_a_price(name: str, oddity: str) -> None:
    for dataset in ADAPTERS[name].profile.offers:
        provider = built(name)
        try:
            answer = await provider.fetch(some_call(provider, dataset), FakeVendor(ODD_ANSWERS[oddity]), NOW)
        except ProviderError as error:
            failed = [error]
        else:
            assert not records(answer)
            failed = list(answer.failed.values())
        for error in failed:
            assert KEY not in str(error)
            assert "\n" not in error.message
            assert "://" not in error.message


@pytest.mark.parametrize("name", ASKING)
async def test_too_many_requests_is_told_from_a_failing_server(name: str) -> None:
    for status, verdict in ((429, Verdict.RATE_LIMITED), (503, Verdict.SERVER_ERROR)):
        for dataset in ADAPTERS[name].profile.offers:
            provider = built(name)
            with pytest.raises(ProviderError) as caught:
                await provider.fetch(some_call(provider, dataset), FakeVendor(reply("not now", status)), NOW)
            assert caught.value.verdict is verdict


@pytest.mark.parametrize("name", ASKING)
async def test_a_key_is_never_in_the_path(name: str) -> None:
    for dataset in ADAPTERS[name].profile.offers:
        provider, vendor = built(name), FakeVendor(reply({}))
        with suppress(ProviderError):
            await provider.fetch(some_call(provider, dataset), vendor, NOW)
        assert vendor.asked
        assert not any(KEY in request.path for request in vendor.asked)


@pytest.mark.parametrize("name", ADAPTERS)
async def test_what_is_not_offered_is_refused_before_any_call(name: str) -> None:
    provider, vendor = built(name), FakeVendor(reply({}))
    missing = [FetchCall("iv", ("AAPL",))] if "iv" not in provider.profile.offers else []
    missing += [FetchCall("bars", ("AAPL",), frame) for frame in TIMEFRAMES if frame not in provider.profile.offers.get("bars", ())]
    for call in missing:
        with pytest.raises(ProviderError) as caught:
            await provider.fetch(call, vendor, NOW)
        assert caught.value.verdict is Verdict.BAD_REQUEST
    assert not vendor.asked


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("symbol", ["AAPL", "BRK.B", "EUR/USD", "BTC/USD", "^GSPC", "7203.T"])
def test_a_symbol_in_the_vendors_own_spelling_stays_as_it_is(name: str, symbol: str) -> None:
    provider = built(name)
    assert provider.to_vendor(provider.to_vendor(symbol)) == provider.to_vendor(symbol)
