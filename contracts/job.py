"""KV `jobs`: what is to be refreshed, and when."""

from datetime import timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from contracts.message import Dataset, JobId, Lane, Message, SymbolText, Text, Timeframe, UtcInstant

TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$")]


class Job(Message, frozen=True, kw_only=True, tag="job.v1", forbid_unknown_fields=True):
    """A schedule and what it asks for, in KV `jobs` under `id`. Written by the command line and the settings; read by schedulers.

    Exactly one of `cron` (five fields), `every_s` (whole slots counted from the epoch) and `at` (times of day, "HH:MM[:SS]")
    says when, in `timezone`. `catch_up`: after an outage, `latest` asks once for the newest data if a slot was missed within
    `catch_up_window_s`, `none` lets missed slots go. `enabled_at`: slots before it are nobody's.
    The other fields are the request's: see `RefreshRequest`. `expires_after_s`: a task is not worth a call so long after its slot.
    """

    id: JobId
    enabled: bool = True
    cron: Text | None = None
    every_s: Annotated[float, msgspec.Meta(ge=1)] | None = None
    at: list[TimeOfDay] = []
    timezone: Text = "UTC"
    catch_up: Literal["latest", "none"] = "latest"
    catch_up_window_s: Annotated[float, msgspec.Meta(ge=0, le=7 * 86400)] = 86400.0
    lane: Lane = "live"
    symbols: list[SymbolText] = []
    universe: Literal["watchlist"] | None = None
    dataset: Dataset = "bars"
    timeframe: Timeframe | None = None
    provider: Text | None = None
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    expires_after_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    paused_reason: Text | None = None
    enabled_at: UtcInstant | None = None
    origin: Literal["settings", "person"] = "person"

    def __post_init__(self) -> None:
        if sum((self.cron is not None, self.every_s is not None, bool(self.at))) != 1:
            raise ValueError(f"job {self.id}: give exactly one of cron, every_s and at")
        if not self.symbols and self.universe is None:
            raise ValueError(f"job {self.id}: symbols: name at least one, or a universe")
        if self.timeframe is not None and self.dataset != "bars":
            raise ValueError(f"job {self.id}: timeframe: a {self.dataset} has none")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"job {self.id}: timezone: {self.timezone!r} is none of the IANA time zones") from error

    @property
    def catch_up_window(self) -> timedelta:
        """How far back a missed slot is still worth a request."""
        return timedelta(seconds=self.catch_up_window_s)
