"""Slots on some days only, and within sessions, against slow but obvious ways to find them."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.schedule import WEEKDAYS, parse_days
from services.runtime.schedules.build import schedule_of
from services.runtime.schedules.clock_times import Schedule
from services.runtime.schedules.sessions import Calendar
from tests.runtime.schedules.exchanges import DAY, exchange, new_york
from tests.runtime.schedules.walked_slots import CHANGES, MINUTE, agrees, by_the_wall, clock_times, job, spans, walk

NEW_YORK = new_york(date(2026, 1, 1), date(2026, 12, 31))
CALENDARS = {"XNYS": NEW_YORK}
# Where an hour was repeated over midnight, to which day it belongs is anybody's guess.
PLAIN_DAYS = [change for change in CHANGES if change[0] != "America/St_Johns"]
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


def slots(terms: dict[str, Any], start: datetime, end: datetime) -> list[datetime]:
    return walk(schedule_of(job(**terms), CALENDARS), start, end)


def named(day: date, words: list[str]) -> bool:
    """Whether any word names the day, by looking at each of them."""
    for word in words:
        if word == "last" and (day + DAY).day == 1:
            return True
        if word.isdigit() and day.day == int(word):
            return True
        if word in WEEKDAYS and WEEKDAYS[day.weekday()] == word:
            return True
        if "-" in word:
            first, last = word.split("-")
            each = WEEKDAYS.index(first)
            while WEEKDAYS[each % 7] != last and WEEKDAYS[each % 7] != WEEKDAYS[day.weekday()]:
                each += 1
            if WEEKDAYS[each % 7] == WEEKDAYS[day.weekday()]:
                return True
    return False


day_words = st.lists(st.sampled_from(["mon-fri", "sat-mon", "sun", "wed", "1", "10", "31", "last"]), min_size=1, max_size=3)
plain_spans = spans.filter(lambda span: span[0] != "America/St_Johns")


def only(kept: Callable[[date], bool], zone: ZoneInfo, schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    return [slot for slot in walk(schedule, start, end) if kept(slot.astimezone(zone).date())]


@settings(max_examples=40, deadline=None)
@given(plain_spans, st.sampled_from([60.0, 420.0, 3600.0, 86400.0]), day_words)
def test_every_on_some_days_is_every_without_the_others(
    span: tuple[str, datetime, datetime], length: float, words: list[str]
) -> None:
    zone, start, end = span
    expected = only(lambda day: named(day, words), ZoneInfo(zone), schedule_of(job(every_s=length)), start, end)
    agrees(schedule_of(job(every_s=length, timezone=zone, days=words)), expected, start, end)


@settings(max_examples=40, deadline=None)
@given(
    st.datetimes(datetime(2026, 1, 5), datetime(2026, 11, 1)),  # noqa: DTZ001
    st.integers(0, 40 * 1440),
    st.sampled_from([{"every_s": 900.0}, {"at": ["00:10", "16:10", "23:50"]}, {"cron": "*/50 * * * *"}]),
    st.lists(st.sampled_from(["mon", "fri", "2", "15", "last", "last-of-week"]), max_size=2),
    st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]),
)
def test_with_a_calendar_the_day_is_the_slots_date_at_the_exchange_and_has_a_session(
    began: datetime, length: int, terms: dict[str, Any], words: list[str], zone: str
) -> None:
    start, end = began.replace(tzinfo=UTC), began.replace(tzinfo=UTC) + length * MINUTE
    words = [] if "cron" in terms else words
    dates = set(NEW_YORK.days)

    def counts(day: date) -> bool:
        later = [other for other in NEW_YORK.days if other > day]
        ends_month = later and later[0].month != day.month
        ends_week = later and later[0].isocalendar()[:2] != day.isocalendar()[:2]
        plain = [word for word in words if not word.startswith("last")]
        said = not words or named(day, plain) or ("last" in words and ends_month) or ("last-of-week" in words and ends_week)
        return day in dates and bool(said)

    expected = only(counts, NEW_YORK.zone, schedule_of(job(timezone=zone, **terms)), start, end)
    agrees(schedule_of(job(timezone=zone, calendar="XNYS", days=words, **terms), CALENDARS), expected, start, end)


@settings(max_examples=25, deadline=None)
@given(spans, st.lists(clock_times, min_size=1, max_size=4, unique=True))
def test_times_that_are_skipped_in_a_gap_and_repeated_in_a_fold_go_by_the_wall(
    span: tuple[str, datetime, datetime], times: list[str]
) -> None:
    zone, start, end = span
    shown = {slot for text in times for slot in by_the_wall(f"{int(text[3:])} {int(text[:2])} * * *", zone, start, end)}
    agrees(schedule_of(job(at=times, timezone=zone, dst_gap="skip", dst_fold="both")), sorted(shown), start, end)


@st.composite
def exchanges(draw: st.DrawFn) -> Calendar:
    """An exchange of some days in June with hours of any length, some with a pause."""
    days = sorted(draw(st.sets(st.integers(1, 20), min_size=1, max_size=8)))
    hours, pauses = [], []
    for day in days:
        opens = utc(2026, 6, day, draw(st.integers(0, 10)), draw(st.sampled_from([0, 30])))
        closes = opens + draw(st.integers(1, 13)) * HOUR
        pause = opens + draw(st.integers(1, 300)) * MINUTE
        hours.append((opens, closes))
        pauses.append((pause, min(pause + HOUR, closes)) if pause < closes and draw(st.booleans()) else None)
    return exchange([date(2026, 6, day) for day in days], hours, date(2026, 6, 1), date(2026, 6, 30), pauses=pauses)


sides = st.tuples(st.sampled_from(["open", "close"]), st.integers(-90, 90))


def edge(side: tuple[str, int]) -> str:
    return side[0] + (f"{side[1]:+d}m" if side[1] else "")


@settings(max_examples=80, deadline=None)
@given(exchanges(), sides, sides, st.none() | st.integers(1, 100), st.integers(0, 25 * 1440), st.integers(0, 20 * 1440))
def test_times_within_sessions_are_counted_from_each_sessions_own_open_and_close(
    known: Calendar, first: tuple[str, int], last: tuple[str, int], every: int | None, after: int, length: int
) -> None:
    text = f"every {every}m from {edge(first)} to {edge(last)}" if every else edge(first)
    expected: list[datetime] = []
    for hours, pause in zip(known.hours, known.pauses, strict=True):
        slot, end = (hours[side == "close"] + minutes * 60 for side, minutes in (first, last if every else first))
        while slot <= end:
            in_pause = pause is not None and pause[0] < slot < pause[1]
            instant = datetime.fromtimestamp(slot, UTC)
            if not in_pause and (not expected or instant > expected[-1]):
                expected.append(instant)
            slot += (every or 10**9) * 60
    start = utc(2026, 6, 1) + after * MINUTE
    end_at = start + length * MINUTE
    schedule = schedule_of(job(session=text, calendar="XNYS"), {"XNYS": known})
    within = [slot for slot in expected if start < slot <= end_at]
    assert (schedule.last_until(start, end_at), schedule.count(start, end_at)) == (within[-1] if within else None, len(within))
    if after_it := [slot for slot in expected if slot > start]:
        assert schedule.next_after(start) == after_it[0]


def test_a_half_day_has_its_own_close_and_the_holiday_before_it_nothing() -> None:
    start, end = utc(2026, 11, 25, 18), utc(2026, 11, 28)
    assert slots({"session": "close-10m", "calendar": "XNYS"}, start, end) == [utc(2026, 11, 25, 20, 50), utc(2026, 11, 27, 17, 50)]
    quarters = slots({"session": "every 15m from open+5m to close+5m", "calendar": "XNYS"}, utc(2026, 11, 26), end)
    assert (quarters[0], quarters[-1], len(quarters)) == (utc(2026, 11, 27, 14, 35), utc(2026, 11, 27, 18, 5), 15)
    assert slots({"every_s": 60.0, "calendar": "XNYS"}, utc(2026, 11, 26, 5), utc(2026, 11, 27, 4, 59)) == []


def test_the_weeks_last_session_is_a_thursday_before_good_friday() -> None:
    terms = {"session": "close+30m", "calendar": "XNYS", "days": ["last-of-week"]}
    assert slots(terms, utc(2026, 3, 28), utc(2026, 4, 12)) == [utc(2026, 4, 2, 20, 30), utc(2026, 4, 10, 20, 30)]


def test_beyond_the_sessions_that_are_known_every_weekday_counts_and_none_has_an_open_or_a_close() -> None:
    after = utc(2027, 1, 1, 12)
    assert slots({"at": ["12:00"], "calendar": "XNYS"}, after, after + 4 * DAY) == [utc(2027, 1, day, 12) for day in (4, 5)]
    with pytest.raises(ValueError, match="no session of XNYS is known after 2026-12-31: run `quotebus migrate`"):
        schedule_of(job(session="open", calendar="XNYS"), CALENDARS).next_after(after)


def test_without_the_sessions_of_its_calendar_no_slot_is_known() -> None:
    for terms in ({"session": "open"}, {"every_s": 60.0}, {"at": ["12:00"]}, {"cron": "0 9 * * *"}):
        schedule = schedule_of(job(calendar="XLON", **terms), CALENDARS)
        assert schedule.last_until(utc(2026, 1, 1), utc(2026, 6, 1)) is None
        with pytest.raises(ValueError, match="the sessions of XLON are not known yet"):
            schedule.next_after(utc(2026, 1, 1))


def test_days_are_words_and_ranges_and_a_range_may_go_over_the_weekend() -> None:
    assert parse_days(["fri-mon", "15", "last"]) == parse_days(["fri", "sat", "sun", "mon", "15", "last", "last"])


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"every_s": 60.0, "days": ["monday"]}, "days: 'monday' is no day; give mon to sun, mon-fri, 1 to 31, last"),
        ({"every_s": 60.0, "days": ["32"]}, "days: '32' is no day"),
        ({"every_s": 60.0, "days": ["last-of-week"]}, "days: last-of-week needs a calendar"),
        ({"cron": "0 9 * * *", "days": ["mon"]}, "days: cron names its days itself"),
        ({"every_s": 60.0, "calendar": "XNYZ"}, "calendar: 'XNYZ' is none that is known; did you mean XNZE or XNYS"),
        ({"every_s": 60.0, "calendar": "NYSE"}, "calendar: 'NYSE' is none that is known; did you mean XNYS"),
        ({"session": "open+5m"}, "calendar: a session is one of an exchange; name it, such as XNYS"),
        ({"session": "open+5", "calendar": "XNYS"}, "session: 'open+5' is no time of a session; give open+5m, close-10m"),
        ({"session": "every 0m", "calendar": "XNYS"}, "session: every 0m: give 1s to 24h"),
        ({"session": "close+25h", "calendar": "XNYS"}, "session: close+25h is more than a day off"),
        ({"every_s": 60.0, "at_least_every_s": 60.0}, "at_least_every_s: belongs to after"),
        ({"after": "j"}, "after: a job cannot follow itself"),
        ({"after": "k", "jitter_s": 5.0}, "jitter_s: a job that follows another has none"),
        ({"every_s": 60.0, "dst_gap": "skip"}, "dst_gap: only at and cron go by a clock on the wall"),
        ({"every_s": 60.0, "dataset": "quote", "lookback_days": 5}, "lookback_days: a quote has no past to ask for"),
        ({"every_s": 60.0, "after": "k"}, "give exactly one of cron, every_s, at, session and after"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_is_refused_in_one_line_that_names_the_field(terms: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"^job j: ") as refused:
        job(**terms)
    assert str(refused.value).startswith(f"job j: {said}")
