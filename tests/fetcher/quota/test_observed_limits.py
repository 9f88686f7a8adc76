"""What headers tell of a provider's own count, in the spellings that are about."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from hypothesis import example, given
from hypothesis.strategies import datetimes, floats, integers, just, text

from services.fetcher.circuit.key_state import RECOVERS_IN_S, KeyState
from services.fetcher.provider import Reply
from services.fetcher.quota.observed_limits import RateLimitHeader, ResponseObserver, rate_limit_headers
from services.runtime.quota import QuotaWindow, lane_reserves

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"x-ratelimit-remaining": "7", "x-ratelimit-limit": "60", "x-ratelimit-reset": "30"}, RateLimitHeader(7, 60, SOON)),
        ({"x-rate-limit-remaining": "7", "x-rate-limit-reset": str(int(SOON.timestamp()))}, RateLimitHeader(7, None, SOON)),
        ({"ratelimit-remaining": "7", "ratelimit-limit": "60, 60;w=60", "ratelimit-reset": "30"}, RateLimitHeader(7, 60, SOON)),
        ({"x-ratelimit-requests-remaining": "7", "x-ratelimit-requests-limit": "500"}, RateLimitHeader(7, 500)),
        ({"x-ratelimit-remaining-day": "7", "x-ratelimit-limit-day": "25"}, RateLimitHeader(7, 25, None, "day")),
        ({"x-ratelimit-minute-remaining": "7"}, RateLimitHeader(7, None, None, "minute")),
        ({"x-ratelimit-reset": str(int(SOON.timestamp() * 1000)), "x-ratelimit-remaining": "0"}, RateLimitHeader(0, None, SOON)),
        ({"x-ratelimit-reset": "2026-03-02T12:00:30Z", "x-ratelimit-remaining": "0"}, RateLimitHeader(0, None, SOON)),
        ({"x-ratelimit-reset": "Mon, 02 Mar 2026 12:00:30 GMT", "x-ratelimit-remaining": "0"}, RateLimitHeader(0, None, SOON)),
        ({"ratelimit": "limit=60, remaining=7, reset=30"}, RateLimitHeader(7, 60, SOON)),
        ({"ratelimit": '"default";r=7;t=30'}, RateLimitHeader(7, None, SOON)),
        ({"api-credits-left": "7", "api-credits-used": "1"}, RateLimitHeader(7, None, None, "minute")),
    ],
)
def test_an_allowance_is_read_however_its_headers_are_spelled(headers: dict[str, str], told: RateLimitHeader) -> None:
    assert rate_limit_headers(headers, NOW) == [told]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json", "x-request-id": "12"},
        {"x-ratelimit-reset": "30"},
        {"x-ratelimit-remaining": "many", "x-ratelimit-limit": ""},
        {"x-ratelimit-remaining": "-1"},
        {"x-ratelimit-remaining": "9" * 40},
    ],
)
def test_what_is_no_allowance_teaches_nothing(headers: dict[str, str]) -> None:
    assert rate_limit_headers(headers, NOW) == []


@pytest.mark.parametrize("reset", ["soon", "-5", "nan", "inf", "1e300", "9" * 30, "2026-13-99"])
def test_a_reset_that_cannot_be_read_is_left_out(reset: str) -> None:
    assert rate_limit_headers({"x-ratelimit-remaining": "1", "x-ratelimit-reset": reset}, NOW) == [RateLimitHeader(1)]


@given(
    remaining=text(max_size=20) | integers().map(str),
    limit=text(max_size=20) | integers().map(str),
    reset=text(max_size=20) | floats().map(str) | integers().map(str) | datetimes(timezones=just(UTC)).map(datetime.isoformat),
)
@example(remaining="1", limit="²", reset="0001-01-01T00:00:00+14:00")
@example(remaining="²", limit="9" * 5000, reset="²")
@example(remaining="1", limit="1", reset="9" * 5000)
def test_no_header_breaks_a_call(remaining: str, limit: str, reset: str) -> None:
    headers = {"x-ratelimit-remaining": remaining, "x-ratelimit-limit": limit, "x-ratelimit-reset": reset, "ratelimit": reset}
    for status in (200, 429):
        heard = ResponseObserver()
        heard.observe(Reply(status, headers | {"retry-after": reset}, b""))
        for allowance in heard.allowances:
            allowance.match_window([QuotaWindow("acme", "k1", "minute", 60), QuotaWindow("acme", "k1", "day", 9)], NOW)


def test_an_allowance_is_that_of_the_window_it_names_or_fits() -> None:
    minute, day = QuotaWindow("acme", "k1", "minute", 60), QuotaWindow("acme", "k1", "day", 500)
    windows = [minute, *lane_reserves([day], 0.2, 0.3), day]
    assert RateLimitHeader(1, window="day").match_window(windows, NOW) == day
    assert RateLimitHeader(1, limit=500).match_window(windows, NOW) == day
    assert RateLimitHeader(1, limit=30, reset_at=SOON).match_window(windows, NOW) == minute
    assert RateLimitHeader(1, reset_at=NOW + timedelta(hours=5)).match_window(windows, NOW) == day
    assert RateLimitHeader(1, window="hour").match_window(windows, NOW) is None
    assert RateLimitHeader(1).match_window(windows, NOW) is None
    assert RateLimitHeader(1).match_window([day], NOW) == day


def test_a_refusal_says_when_to_come_back_in_its_headers_or_by_when_its_window_resets() -> None:
    heard = ResponseObserver()
    heard.observe(Reply(200, {}, b""))
    assert not heard.throttled
    heard.observe(Reply(429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2999-01-01T00:00:00Z"}, b""))
    assert (heard.throttled, heard.retry_at) == (True, datetime(2999, 1, 1, tzinfo=UTC))
    with time_machine.travel(NOW, tick=False):
        heard.observe(Reply(429, {"retry-after": "Mon, 02 Mar 2026 12:00:30 GMT"}, b""))
    assert heard.retry_at == SOON


def test_a_lowered_pace_rises_evenly_to_the_full_one_or_to_what_the_provider_allows() -> None:
    state = KeyState(provider="acme", key="k1", pace=0.25, slowed_at=NOW)
    assert state.pace_at(NOW) == 0.25
    assert state.pace_at(NOW + timedelta(seconds=RECOVERS_IN_S / 2)) == 0.75
    assert state.pace_at(NOW + timedelta(days=1)) == 1.0
    limited = KeyState(provider="acme", key="k1", ceilings={"minute": 0.5})
    assert limited.pace_at(NOW) == 0.5


def test_shares_of_a_small_day_leave_each_lane_something() -> None:
    def limits(limit: int) -> list[int]:
        return [share.limit for share in lane_reserves([QuotaWindow("acme", "k1", "day", limit)], 0.2, 0.3)]

    assert limits(25) == [20, 12]
    assert limits(1000) == [800, 500]
    assert limits(2) == [1]
    assert limits(1) == []
