"""A job's schedule, checked: when it falls due."""

from datetime import UTC, date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from contracts.job import Job
from services.runtime.slots import Daily, Every, Schedule

_LONGEST_EVERY_S = 366 * 86400.0
_CRON_FIELDS = "minute, hour, day of month, month, day of week"


def schedule_of(job: Job) -> Schedule:
    """When the job falls due.

    Raises:
        ValueError: one line that names the job and the field that is wrong.
    """
    try:
        if job.every_s is not None:
            return _every(job.every_s)
        if job.cron is not None:
            return _cron(job.cron, job.timezone)
        return _at(tuple(sorted(set(job.at))), job.timezone)
    except ValueError as error:
        raise ValueError(f"job {job.id}: {error}") from None


def _every(seconds: float) -> Schedule:
    if not seconds <= _LONGEST_EVERY_S:
        raise ValueError(f"every_s: {seconds}; give at most {_LONGEST_EVERY_S:.0f}, a year")
    return Every(round(seconds * 1_000_000))


# Jobs of the same times share one schedule, and so the slots it has worked out.
@lru_cache(maxsize=1024)
def _cron(text: str, zone: str) -> Schedule:
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
    schedule = Daily(ZoneInfo(zone), seconds, falls_on, follows_wall=fields[0].startswith("*") or fields[1].startswith("*"))
    try:
        schedule.following(start)
    except ValueError:
        raise ValueError(f"cron: {text!r} names a date that never comes") from None
    return schedule


@lru_cache(maxsize=1024)
def _at(times: tuple[str, ...], zone: str) -> Schedule:
    seconds = {sum(int(part) * unit for part, unit in zip(text.split(":"), (3600, 60, 1), strict=False)) for text in times}
    return Daily(ZoneInfo(zone), tuple(sorted(seconds)), lambda _day: True)
