"""Longer bars out of shorter ones: nothing but what the shorter ones say, and nothing of a time that nobody asked for."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.fetcher.adapter.events import Bar
from services.fetcher.derived.resample import TimeRange, end_of, resample, start_of

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC)  # a Monday
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ALWAYS = [TimeRange(NINE - 400 * DAY, NINE + 400 * DAY)]


def row(minute: int, close: float = 10.0, volume: float | None = 1.0) -> Bar:
    return Bar(NINE + minute * MINUTE, close - 0.5, close + 1, close - 1, close, volume, close / 2)


def test_a_bar_opens_with_the_first_closes_with_the_last_and_reaches_as_far_as_any() -> None:
    [first, second] = resample([row(0, 10), row(2, 14), row(4, 8), row(7, 9)], "5m", ALWAYS)
    assert first == Bar(NINE, 9.5, 15.0, 7.0, 8, 3.0, 4.0)
    assert second == Bar(NINE + 5 * MINUTE, 8.5, 10.0, 8.0, 9, 1.0, 4.5)


def test_a_volume_is_unknown_where_one_is() -> None:
    [made] = resample([row(0), row(1, volume=None)], "5m", ALWAYS)
    assert made.volume is None


def test_a_bar_of_which_a_part_was_never_asked_for_is_left_out() -> None:
    rows = [row(minute) for minute in range(0, 20, 2)]
    seen = [TimeRange(NINE + 2 * MINUTE, NINE + 12 * MINUTE), TimeRange(NINE + 13 * MINUTE, NINE + 18 * MINUTE)]
    made = resample(rows, "5m", seen)
    # The first lacks its beginning, the third a minute in the middle; the fourth goes on as far as anybody has seen.
    assert [(each.at - NINE) // MINUTE for each in made] == [5, 15]
    assert resample(rows, "5m", []) == []


def test_minutes_without_a_trade_are_no_hole() -> None:
    assert len(resample([row(0), row(59)], "1h", ALWAYS)) == 1


def test_days_make_weeks_and_months_under_their_first_day() -> None:
    days = [Bar(datetime(2026, 1, day, tzinfo=UTC), 1, 2, 0.5, day, 1.0) for day in (2, 5, 6, 30)]
    days.append(Bar(datetime(2026, 2, 2, tzinfo=UTC), 1, 2, 0.5, 1, 1.0))
    weeks = resample(days, "1wk", ALWAYS)
    assert [(each.at.date().isoformat(), each.volume) for each in weeks] == [
        ("2025-12-29", 1.0), ("2026-01-05", 2.0), ("2026-01-26", 1.0), ("2026-02-02", 1.0),
    ]  # fmt: skip
    assert [(each.at.day, each.at.month, each.close) for each in resample(days, "1mo", ALWAYS)] == [(1, 1, 30), (1, 2, 1)]


@given(seconds=st.integers(0, 4 * 10**9), timeframe=st.sampled_from(["5m", "15m", "30m", "1h", "1wk", "1mo"]))
def test_every_instant_lies_in_the_bar_that_starts_before_and_ends_after_it(seconds: int, timeframe: str) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    start = start_of(at, timeframe)  # type: ignore[arg-type]
    assert start <= at < end_of(start, timeframe)  # type: ignore[arg-type]
    assert start_of(start, timeframe) == start  # type: ignore[arg-type]


@given(minutes=st.sets(st.integers(0, 600), min_size=1), timeframe=st.sampled_from(["5m", "15m", "30m", "1h"]))
def test_an_hour_is_the_same_made_of_minutes_or_of_what_minutes_made(minutes: set[int], timeframe: str) -> None:
    rows = [row(minute, 5 + minute % 7, minute % 3) for minute in sorted(minutes)]
    steps = resample(rows, timeframe, ALWAYS)  # type: ignore[arg-type]
    assert resample(steps, "1h", ALWAYS) == resample(rows, "1h", ALWAYS)
