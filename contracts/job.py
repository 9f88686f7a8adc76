"""KV `jobs`: what is to be refreshed, and when."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from contracts.datasets import DATASETS
from contracts.message import Dataset, JobId, Lane, Message, SymbolText, Text, Timeframe, UniverseName, UtcInstant
from contracts.schedule import check_calendar, parse_days, parse_session

TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$")]
# Of these a job has exactly one; a job that gets another loses it, and what belongs to it alone.
SCHEDULE_FIELDS = ("cron", "every_s", "at", "session", "after")
# All that decides when a job falls due: whoever changes one of them starts a new count of slots.
TIMING_FIELDS = (*SCHEDULE_FIELDS, "at_least_every_s", "days", "calendar", "timezone", "dst_gap", "dst_fold")


class Job(Message, frozen=True, kw_only=True, tag="job.v1", forbid_unknown_fields=True):
    """A schedule and what it asks for, in KV `jobs` under `id`. Written by the command line and the settings; read by schedulers.

    Exactly one of these says when: `cron` (five fields) and `at` (times of day, "HH:MM[:SS]") in `timezone`; `every_s` (whole
    slots counted from the epoch); `session` ("open+5m", "close-10m", "every 15m from open+5m to close") of `calendar`; `after`
    another job's run is finished, and then also `at_least_every_s`.
    `days` leaves only days that one of its words names (see `parse_days`), `calendar` only days with a session; the day is the
    slot's date in `timezone`, with a calendar its date at the exchange. `dst_gap`: a time that the clocks skip falls on the end
    of the gap or is left out; `dst_fold`: one that they repeat counts the first time or both. By default next and first, but
    `cron` with a star for minute or hour goes by the wall: skip and both.
    `jitter_s`: each slot is asked up to so much later, and before the next one; how much depends on the job and the slot alone.
    `catch_up`: after an outage, `latest` asks once for the newest data if a slot was missed within `catch_up_window_s`, `all` asks
    once for bars of all the time that was missed, `none` lets missed slots go. `enabled_at`: slots before it are nobody's.
    The other fields are the request's: see `RefreshRequest`. `expires_after_s`: a task is not worth a call so long after its slot.
    `lookback_days`: bars or actions from so many days before the slot's day up to it, instead of the latest.
    """

    id: JobId
    enabled: bool = True
    cron: Text | None = None
    every_s: Annotated[float, msgspec.Meta(ge=1)] | None = None
    at: list[TimeOfDay] = []
    session: Text | None = None
    after: JobId | None = None
    at_least_every_s: Annotated[float, msgspec.Meta(ge=1)] | None = None
    days: list[Text] = []
    calendar: Text | None = None
    timezone: Text = "UTC"
    dst_gap: Literal["next", "skip"] | None = None
    dst_fold: Literal["first", "both"] | None = None
    jitter_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0
    catch_up: Literal["latest", "all", "none"] = "latest"
    catch_up_window_s: Annotated[float, msgspec.Meta(ge=0, le=7 * 86400)] = 86400.0
    lane: Lane = "live"
    symbols: list[SymbolText] = []
    universe: UniverseName | None = None
    max_symbols: Annotated[int, msgspec.Meta(ge=1)] | None = None
    dataset: Dataset = "bars"
    timeframe: Timeframe | None = None
    lookback_days: Annotated[int, msgspec.Meta(ge=1, le=36600)] | None = None
    provider: Text | None = None
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    expires_after_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    paused_reason: Text | None = None
    enabled_at: UtcInstant | None = None
    origin: Literal["settings", "person"] = "person"

    def __post_init__(self) -> None:
        try:
            fault = next(check_job(self), None)
        except ValueError as error:
            fault = str(error)
        if fault:
            raise ValueError(f"job {self.id}: {fault}")

    @property
    def catch_up_window(self) -> timedelta:
        """Longest age of a missed slot for which the scheduler still publishes a request."""
        return timedelta(seconds=self.catch_up_window_s)


def check_job(job: Job) -> Iterator[str]:
    """Validate a job; yields one line per error, which begins with the field."""
    if sum(1 for name in SCHEDULE_FIELDS if getattr(job, name) not in (None, [])) != 1:
        yield "give exactly one of cron, every_s, at, session and after"
    yield from _check_times(job)
    if not job.symbols and job.universe is None:
        yield "symbols: name at least one, or a universe"
    if job.timeframe is not None and not DATASETS[job.dataset].timeframed:
        yield f"timeframe: a {job.dataset} has none"
    if job.lookback_days is not None and not DATASETS[job.dataset].ranged:
        yield f"lookback_days: a {job.dataset} has no past to ask for"
    try:
        ZoneInfo(job.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        yield f"timezone: {job.timezone!r} is none of the IANA time zones"


def _check_times(job: Job) -> Iterator[str]:
    days = parse_days(job.days)
    if job.calendar is not None:
        check_calendar(job.calendar)
    if job.session is not None:
        parse_session(job.session)
        if job.calendar is None:
            yield "calendar: a session is one of an exchange; name it, such as XNYS"
    if job.days and job.cron is not None:
        yield "days: cron names its days itself, in its third and fifth field"
    if days.last_of_week and job.calendar is None:
        yield "days: last-of-week needs a calendar; without one say which weekday"
    yield from _check_dst_and_chaining(job)


def _check_dst_and_chaining(job: Job) -> Iterator[str]:
    for name in ("dst_gap", "dst_fold"):
        if getattr(job, name) is not None and not job.at and job.cron is None:
            yield f"{name}: only at and cron go by a clock on the wall"
    if job.after == job.id:
        yield "after: a job cannot follow itself"
    if job.at_least_every_s is not None and job.after is None:
        yield "at_least_every_s: belongs to after; without it give every_s"
    if job.jitter_s and job.after is not None:
        yield "jitter_s: a job that follows another has none"


def check_chain(job: str, after: Mapping[str, str | None]) -> str | None:
    """Validate the chain of jobs that this one follows; returns its error, if any. `after`: the job that each known job follows."""
    seen = [job]
    while (following := after.get(seen[-1])) is not None:
        if following not in after:
            near = get_close_matches(following, after, 1)
            hint = f"did you mean {near[0]}?" if near else "`quotebus jobs` lists all"
            return f"job {seen[-1]}: after: there is no job {following}; {hint}"
        if following in seen:
            return f"job {job}: after: {' follows '.join([*seen, following])}; one of them must go by the time"
        seen.append(following)
    return None
