"""What becomes of the slots that fell due."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.job import Job
from services.runtime.jobs.store import manual_request
from services.runtime.schedules.build import schedule_of
from services.scheduler.due import STREAM_RETENTION, Due, due, due_at, next_wakeup
from services.scheduler.publish_request import request_for

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def job(**terms: object) -> Job:
    terms = {"every_s": 600.0, "enabled_at": NOON - 30 * 24 * HOUR, **terms}
    return Job(**{"id": "j", "symbols": ["AAPL"], **terms})


def look(wanted: Job, last: datetime | None, now: datetime) -> Due | None:
    return due(wanted, schedule_of(wanted), last, now)


def test_nothing_is_due_before_the_next_slot():
    assert look(job(), NOON, NOON + 599 * SECOND) is None


def test_a_slot_is_due_at_its_instant():
    assert look(job(), NOON, NOON + 600 * SECOND) == Due(NOON + 600 * SECOND, missed=0, late=False, publish=True)


def test_a_slot_that_another_clock_asked_early_is_not_due_again():
    assert look(job(), NOON, NOON - 5 * SECOND) is None


def test_after_an_outage_only_the_newest_slot_is_asked_and_the_others_are_counted():
    found = look(job(), NOON, NOON + 59 * MINUTE)
    assert found == Due(NOON + 50 * MINUTE, missed=4, late=True, publish=True)


def test_a_slot_older_than_the_catch_up_window_is_let_go():
    wanted = job(at=["09:00"], every_s=None, catch_up_window_s=3600.0)
    assert look(wanted, NOON - 48 * HOUR, NOON) == Due(NOON - 3 * HOUR, missed=1, late=True, publish=False)
    assert look(wanted, NOON - 48 * HOUR, NOON - 2 * HOUR) == Due(NOON - 3 * HOUR, missed=1, late=True, publish=True)


@pytest.mark.parametrize(
    ("every_s", "age_s", "publish"), [(600.0, 60, True), (600.0, 61, False), (10.0, 5, True), (10.0, 6, False)]
)
def test_without_catch_up_a_slot_is_asked_within_a_minute_or_half_its_interval(every_s: float, age_s: int, publish: bool):
    found = look(job(every_s=every_s, catch_up="none"), NOON - 2 * timedelta(seconds=every_s), NOON + age_s * SECOND)
    assert found is not None
    assert found.publish is publish


def test_a_window_of_nothing_still_asks_on_time():
    found = look(job(catch_up_window_s=0.0), NOON - 10 * MINUTE, NOON + SECOND)
    assert found is not None
    assert found.publish


def test_slots_before_the_job_was_enabled_are_nobodys():
    wanted = job(enabled_at=NOON - 15 * MINUTE)
    assert look(wanted, NOON - 10 * HOUR, NOON) == Due(NOON, missed=1, late=False, publish=True)
    assert look(wanted, None, NOON) == Due(NOON, missed=1, late=False, publish=True)


def test_slots_older_than_the_stream_remembers_are_not_called_missed():
    wanted = job(every_s=86400.0)
    found = look(wanted, None, NOON)
    assert found is not None
    assert found.missed == STREAM_RETENTION.days - 1


@given(st.sampled_from([1.0, 1.5, 7.0, 3600.0]), st.integers(0, 10**6), st.lists(st.integers(1, 10**5), max_size=10))
def test_asked_and_missed_slots_together_are_all_of_them_whenever_the_clock_wakes(every_s: float, start: int, naps: list[int]):
    wanted = job(every_s=every_s, catch_up="latest")
    begin = now = NOON + start * SECOND
    last, covered, asked = begin, 0, set[datetime]()
    for nap in naps:
        now += nap * timedelta(milliseconds=100)
        found = look(wanted, last, now)
        if found:
            assert found.publish
            assert found.slot not in asked
            asked.add(found.slot)
            covered += found.missed + 1
            last = found.slot
    assert covered == schedule_of(wanted).count(begin, now)


def test_a_week_of_seconds_costs_no_walk():
    found = look(job(every_s=1.0, catch_up="none"), None, NOON + timedelta(milliseconds=700))
    assert found == Due(NOON, missed=7 * 86400 - 1, late=True, publish=False)


def test_a_request_on_time_expires_after_its_slot_and_a_late_one_after_now():
    wanted = job(expires_after_s=60.0, lane="backfill", timeframe="1d", provider="tiingo", max_age_s=5.0)
    on_time = request_for(wanted, Due(NOON, 0, late=False, publish=True), NOON + SECOND)
    late = request_for(wanted, Due(NOON, 3, late=True, publish=True), NOON + HOUR)
    assert (on_time.expires_at, late.expires_at) == (NOON + MINUTE, NOON + HOUR + MINUTE)
    assert (on_time.request_id, on_time.wanted_at, on_time.slot_at) == ("j@2026-03-04T12:00:00Z", NOON, NOON)
    assert (late.missed_slots, late.job, late.timeframe, late.provider, late.max_age_s) == (3, "j", "1d", "tiingo", 5.0)


def test_jitter_is_the_same_for_every_clock_and_never_reaches_the_next_slot():
    wanted = job(jitter_s=5000.0)
    schedule = schedule_of(wanted)
    slots = [NOON + n * 600 * SECOND for n in range(200)]
    delays = [due_at(wanted, schedule, slot) - slot for slot in slots]
    assert delays == [due_at(wanted, schedule_of(wanted), slot) - slot for slot in slots]
    assert all(timedelta() <= delay < 600 * SECOND for delay in delays)
    assert max(delays) - min(delays) > 300 * SECOND
    other = job(id="k", jitter_s=5000.0)
    assert delays != [due_at(other, schedule, slot) - slot for slot in slots]


def test_a_slot_waits_for_its_jitter_and_is_not_late_for_it():
    wanted = job(jitter_s=500.0)
    schedule = schedule_of(wanted)
    slot = NOON + 600 * SECOND
    at = due_at(wanted, schedule, slot)
    assert look(wanted, NOON, at - timedelta(microseconds=1)) is None
    assert next_wakeup(wanted, schedule, NOON, at - SECOND) == at
    assert look(wanted, NOON, at) == Due(slot, missed=0, late=False, publish=True)


@pytest.mark.parametrize(
    ("dataset", "catch_up", "start"), [("bars", "all", date(2026, 3, 3)), ("bars", "latest", None), ("quote", "all", None)]
)
def test_ten_missed_minutes_are_one_late_request_for_the_range_they_need(dataset: str, catch_up: str, start: date | None):
    wanted = job(every_s=60.0, catch_up=catch_up, dataset=dataset)
    midnight = NOON - 12 * HOUR
    found = look(wanted, midnight - 4 * MINUTE, midnight + 7 * MINUTE)
    assert found is not None
    request = request_for(wanted, found, midnight + 7 * MINUTE)
    assert (request.slot_at, request.missed_slots, request.late) == (midnight + 7 * MINUTE, 10, True)
    assert (request.start, request.end) == (start, start and date(2026, 3, 5))


def test_a_range_reaches_back_no_further_than_the_job_catches_up():
    wanted = job(every_s=3600.0, catch_up="all", catch_up_window_s=86400.0)
    found = look(wanted, NOON - 72 * HOUR, NOON + 10 * MINUTE)
    assert found is not None
    request = request_for(wanted, found, NOON + 10 * MINUTE)
    assert (request.missed_slots, request.late, request.start, request.end) == (71, True, date(2026, 3, 3), date(2026, 3, 5))


def test_a_lookback_asks_for_so_many_days_up_to_the_slots_own():
    wanted = job(at=["03:00"], every_s=None, lookback_days=30, max_symbols=7)
    request = request_for(wanted, Due(NOON, 0, late=False, publish=True), NOON)
    assert (request.start, request.end, request.max_symbols) == (date(2026, 2, 2), date(2026, 3, 5), 7)
    by_hand = manual_request(wanted)
    assert by_hand.start is not None
    assert by_hand.end is not None
    assert ((by_hand.end - by_hand.start).days, by_hand.max_symbols) == (31, 7)
