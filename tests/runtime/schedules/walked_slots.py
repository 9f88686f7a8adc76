"""Slots found minute by minute, the plain way, for comparison."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import strategies as st

from contracts.job import Job
from services.runtime.schedules.clock_times import Schedule

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# New York and Lord Howe (half an hour) on both changes, Sao Paulo and Nuuk change at or before midnight, Apia skipped a day,
# St John's once went back to the day before at one minute past midnight.
CHANGES = [
    ("America/New_York", datetime(2024, 3, 10, tzinfo=UTC)),
    ("America/New_York", datetime(2024, 11, 3, tzinfo=UTC)),
    ("Europe/London", datetime(2025, 3, 30, tzinfo=UTC)),
    ("Europe/London", datetime(2025, 10, 26, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2024, 4, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2024, 10, 5, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 2, 18, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, tzinfo=UTC)),
    ("America/Nuuk", datetime(2024, 3, 31, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 11, 7, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2024, 6, 1, tzinfo=UTC)),
]


MINUTE = timedelta(minutes=1)


def job(**terms: object) -> Job:
    return Job(id="j", symbols=["AAPL"], **terms)


def minutes(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        start += MINUTE
        yield start


def once_a_day(times: list[str], zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Each wall time of each day at the first minute that shows it or, if none does, the first minute that shows a later one."""
    tz, found = ZoneInfo(zone), set()
    walls = [(m, m.astimezone(tz).replace(tzinfo=None)) for m in minutes(start - timedelta(days=3), end + timedelta(days=5))]
    day = (start - timedelta(days=2)).date()
    while day <= (end + timedelta(days=2)).date():
        for text in times:
            wanted = datetime.combine(day, datetime.strptime(text, "%H:%M").time())  # noqa: DTZ007
            found.add(next(m for m, wall in walls if wall >= wanted))
        day += timedelta(days=1)
    return sorted(m for m in found if start < m <= end)


def by_the_wall(text: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Every minute at which the wall shows what the cron line names."""
    fields = CronSim(text, EPOCH)
    walls = ((m, m.astimezone(ZoneInfo(zone))) for m in minutes(start, end))
    return [
        m
        for m, w in walls
        if w.minute in fields.minutes and w.hour in fields.hours and w.month in fields.months and fields.match_day(w.date())
    ]


def walk(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    found = []
    while (start := schedule.next_after(start)) <= end:
        found.append(start)
    return found


def agrees(schedule: Schedule, expected: list[datetime], start: datetime, end: datetime) -> None:
    assert walk(schedule, start, end) == expected
    assert schedule.count(start, end) == len(expected)
    assert schedule.last_until(start, end) == (expected[-1] if expected else None)


clock_times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 1, 15, 30, 59]))


spans = st.builds(
    lambda change, before, length: (change[0], change[1] - before * MINUTE, change[1] + (length - before) * MINUTE),
    st.sampled_from(CHANGES),
    st.integers(0, 2000),
    st.integers(0, 5000),
)
