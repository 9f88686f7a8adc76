"""Slots against slow but obvious ways to find them: minute by minute on the wall, and cronsim's own walk."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.clock_times import Interval
from tests.runtime.schedules.walked_slots import EPOCH, agrees, by_the_wall, clock_times, job, once_a_day, spans


@settings(max_examples=25, deadline=None)
@given(spans, st.lists(clock_times, min_size=1, max_size=4))
def test_times_of_day_fall_once_a_day_also_when_the_clocks_change(span: tuple[str, datetime, datetime], times: list[str]) -> None:
    zone, start, end = span
    agrees(schedule_of(job(at=times, timezone=zone)), once_a_day(times, zone, start, end), start, end)


minutes_of_hour = st.sampled_from(["*", "*/7", "*/30", "0", "15,45", "10-20"])
days_of_any_kind = st.sampled_from(["* * *", "* * 1-5", "*/2 * *", "4 * SUN"])


@settings(max_examples=40, deadline=None)
@given(spans, minutes_of_hour, st.sampled_from(["*", "*/3", "1", "1,2", "0,23"]), days_of_any_kind)
def test_cron_with_stars_goes_by_the_wall(span: tuple[str, datetime, datetime], minute: str, hour: str, days: str) -> None:
    if not minute.startswith("*"):
        hour = "*" if not hour.startswith("*") else hour
    zone, start, end = span
    text = f"{minute} {hour} {days}"
    agrees(schedule_of(job(cron=text, timezone=zone)), by_the_wall(text, zone, start, end), start, end)


@settings(max_examples=40, deadline=None)
@given(spans, st.sampled_from(["0", "15,45", "59"]), st.sampled_from(["0", "1,2", "2-4", "23"]), days_of_any_kind)
def test_cron_that_names_its_times_agrees_with_cronsim(
    span: tuple[str, datetime, datetime], minute: str, hour: str, days: str
) -> None:
    zone, start, end = span
    text = f"{minute} {hour} {days}"
    walked = CronSim(text, (start - timedelta(days=3)).astimezone(ZoneInfo(zone)))
    slots: set[datetime] = set()
    while (slot := next(walked).astimezone(UTC)) <= end + timedelta(days=2):
        slots.add(slot)
    expected = sorted(slot for slot in slots if start < slot <= end)
    agrees(schedule_of(job(cron=text, timezone=zone)), expected, start, end)


@settings(max_examples=40, deadline=None)
@given(st.integers(1_000_000, 5_000_000), st.integers(0, 10**16), st.integers(0, 10**8))
def test_every_is_a_multiple_of_its_length_since_the_epoch(length: int, start_us: int, span_us: int) -> None:
    start = EPOCH + timedelta(microseconds=start_us)
    end = start + timedelta(microseconds=span_us)
    first = (start_us // length + 1) * length
    expected = [EPOCH + timedelta(microseconds=us) for us in range(first, start_us + span_us + 1, length)]
    agrees(Interval(length), expected, start, end)


def test_every_half_second_more_than_one_is_exact_for_a_century() -> None:
    schedule = schedule_of(job(every_s=1.5))
    assert schedule.next_after(datetime(2070, 1, 1, tzinfo=UTC)) == datetime(2070, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)


def test_half_past_two_in_new_york_is_three_o_clock_on_the_day_the_hour_is_skipped() -> None:
    schedule = schedule_of(job(at=["02:30"], timezone="America/New_York"))
    assert schedule.next_after(datetime(2024, 3, 10, 5, tzinfo=UTC)) == datetime(2024, 3, 10, 7, tzinfo=UTC)


def test_half_past_one_in_new_york_comes_once_on_the_day_the_hour_is_repeated() -> None:
    schedule = schedule_of(job(cron="30 1 * * *", timezone="America/New_York"))
    first = schedule.next_after(datetime(2024, 11, 3, 4, tzinfo=UTC))
    assert first == datetime(2024, 11, 3, 5, 30, tzinfo=UTC)
    assert schedule.next_after(first) == datetime(2024, 11, 4, 6, 30, tzinfo=UTC)


def test_a_date_that_comes_every_28_years_is_found() -> None:
    schedule = schedule_of(job(cron="0 0 * 2 MON#5"))
    assert schedule.next_after(datetime(2025, 1, 1, tzinfo=UTC)) == datetime(2044, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"cron": "0 0 9 * * *"}, "cron: '0 0 9 * * *' has 6 fields; give five"),
        ({"cron": "@daily"}, "cron: '@daily' has 1 fields; give five"),
        ({"cron": "61 * * * *"}, "cron: bad minute in '61 * * * *'"),
        ({"cron": "0 9 * * MOON"}, "cron: bad day-of-week in '0 9 * * MOON'"),
        ({"cron": "0 0 31 4 *"}, "cron: bad day-of-month in '0 0 31 4 *'"),
        ({"every_s": float("inf")}, "every_s: inf; give at most 31622400, a year"),
    ],
)
def test_a_bad_schedule_is_refused_in_one_line_that_names_job_and_field(terms: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=r"^job j: ") as refused:
        schedule_of(job(**terms))
    assert str(refused.value).startswith(f"job j: {said}")
    assert "\n" not in str(refused.value)
