"""A job's schedule, checked: when it falls due."""

from datetime import UTC, date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from contracts.job import Job
from contracts.schedule import parse_days, parse_session
from services.runtime.schedules.clock_times import DstFold, DstGap, Interval, Schedule, TimesOfDay, Unknown
from services.runtime.schedules.day_filter import DayFiltered, day_filter
from services.runtime.schedules.sessions import Calendar, Calendars, SessionTimesSchedule

_LONGEST_EVERY_S = 366 * 86400.0
_CRON_FIELDS = "minute, hour, day of month, month, day of week"
_NO_CALENDARS: Calendars = {}


def schedule_of(job: Job, calendars: Calendars = _NO_CALENDARS, own: Schedule | None = None) -> Schedule:
    """Schedule of a job. It has no slots while the sessions of the job's calendar are not among `calendars`.

    `own`: for a job that follows another, the instants that only a running clock can know.

    Raises:
        ValueError: one line that names the job and the field that is wrong.
    """
    try:
        plain = _schedule_of_times(job, own)
    except ValueError as error:
        raise ValueError(f"job {job.id}: {error}") from None
    if job.calendar is None:
        return _on_days(plain, job.timezone, tuple(job.days)) if job.days and not job.at else plain
    calendar = calendars.get(job.calendar)
    if calendar is None:
        return Unknown(f"the sessions of {job.calendar} are not known yet: run `quotebus migrate`")
    return _with_calendar(calendar, plain, job.session, tuple(job.days))


def _schedule_of_times(job: Job, own: Schedule | None) -> Schedule:
    """The schedule without its calendar, and without its days but where a wall's date decides."""
    if job.every_s is not None:
        return _every(job.every_s)
    if job.cron is not None:
        return _cron(job.cron, job.timezone, job.dst_gap, job.dst_fold)
    if job.at:
        days = () if job.calendar else tuple(job.days)
        return _at(tuple(sorted(set(job.at))), ZoneInfo(job.timezone), days, job.dst_gap or "next", job.dst_fold or "first")
    if job.after:
        return own or Unknown(f"it runs when {job.after} has run")
    return Unknown("it runs within sessions")


def _every(seconds: float) -> Schedule:
    if not seconds <= _LONGEST_EVERY_S:
        raise ValueError(f"every_s: {seconds}; give at most {_LONGEST_EVERY_S:.0f}, a year")
    return Interval(round(seconds * 1_000_000))


# Jobs of the same times share one schedule, and so the slots it has worked out.
@lru_cache(maxsize=1024)
def _cron(text: str, zone: str, gap: DstGap | None, fold: DstFold | None) -> Schedule:
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(f"cron: {text!r} has {len(fields)} fields; give five: {_CRON_FIELDS}")
    start = datetime(2024, 1, 1, tzinfo=UTC)
    try:
        parsed = CronSim(text, start)
    except CronSimError as error:
        raise ValueError(f"cron: {str(error).lower()} in {text!r}; the fields are {_CRON_FIELDS}") from None

    def falls_on(day: date) -> bool:
        return day.month in parsed.months and parsed.match_day(day)

    seconds = tuple(hour * 3600 + minute * 60 for hour in sorted(parsed.hours) for minute in sorted(parsed.minutes))
    # As Debian's cron has it: what is said with a star goes on by the wall's clock, a time that is named happens once a day.
    by_the_wall = fields[0].startswith("*") or fields[1].startswith("*")
    schedule = TimesOfDay(
        ZoneInfo(zone), seconds, falls_on, gap or ("skip" if by_the_wall else "next"), fold or ("both" if by_the_wall else "first")
    )
    try:
        schedule.next_after(start)
    except ValueError:
        raise ValueError(f"cron: {text!r} names a date that never comes") from None
    return schedule


@lru_cache(maxsize=1024)
def _at(times: tuple[str, ...], zone: ZoneInfo, days: tuple[str, ...], gap: DstGap, fold: DstFold) -> Schedule:
    seconds = {sum(int(part) * unit for part, unit in zip(text.split(":"), (3600, 60, 1), strict=False)) for text in times}
    return TimesOfDay(zone, tuple(sorted(seconds)), day_filter(parse_days(days), None), gap, fold)


@lru_cache(maxsize=1024)
def _on_days(plain: Schedule, zone: str, days: tuple[str, ...]) -> Schedule:
    return DayFiltered(plain, ZoneInfo(zone), day_filter(parse_days(days), None))


def _with_calendar(calendar: Calendar, plain: Schedule, session: str | None, days: tuple[str, ...]) -> Schedule:
    """The schedule on the calendar's days. It is kept with the calendar, so that it goes when the calendar is replaced."""
    key = (plain if session is None else session, days)
    if key not in calendar.schedules:
        counts = day_filter(parse_days(days), calendar)
        made = (
            DayFiltered(plain, calendar.zone, counts)
            if session is None
            else SessionTimesSchedule(calendar, parse_session(session), counts)
        )
        calendar.schedules[key] = made
    return calendar.schedules[key]
