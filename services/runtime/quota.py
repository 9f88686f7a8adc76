"""The limits of provider keys."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from contracts import subjects
from contracts.message import LANES, Lane

DAY_S = 86400.0
WINDOW_S: Mapping[str, float] = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 26 * 3600.0, "month": 32 * DAY_S}
SYMBOLS = "symbols"
# Of calls within one batch the server stores all or none; so many it takes at once.
LARGEST_BATCH = 500


@dataclass(frozen=True)
class QuotaWindow:
    """One limit of one provider key: at most `limit` calls per window. Days and months begin at midnight in `zone`.

    `window`: second, minute, hour, day or month; a length such as `600s`; or `symbols`, which counts the different symbols of a
    month. `lane`: it counts the calls of this lane and those below it only.
    """

    provider: str
    key: str
    window: str
    limit: int
    zone: str = "UTC"
    lane: Lane | None = None

    @property
    def token(self) -> str:
        """Name of the window among those of its key, used in subjects and stream names."""
        return f"{self.window}-{self.lane}" if self.lane else self.window

    @property
    def stream_prefix(self) -> str:
        """Prefix of the names of its ledger streams, whatever the limit."""
        return f"QUOTA_{self.provider}_{self.key}_{self.token}_"

    @property
    def stream(self) -> str:
        """The stream that is this window's ledger. The limit is part of the name, so whoever counts by another limit is refused."""
        return f"{self.stream_prefix}{self.limit}"

    @property
    def length_s(self) -> float:
        """Its length; of one that resets on a date, for how long that date's permits are kept."""
        return WINDOW_S["month"] if self.window == SYMBOLS else WINDOW_S.get(self.window) or float(self.window[:-1])

    @property
    def margin_s(self) -> float:
        """Seconds for which a permit outlives its window: covers the time between the permit and the call's arrival."""
        return 1.0 if self.length_s >= 60 else 0.25 if self.length_s < 10 else 0.5

    @property
    def monthly(self) -> bool:
        """True if the window resets on the first of a month."""
        return self.window in ("month", SYMBOLS)

    @property
    def by_date(self) -> bool:
        """True if the window resets on a date instead of sliding."""
        return self.window == "day" or self.monthly

    @property
    def describe_limit(self) -> str:
        """Describe the limit's unit in words."""
        if self.window == SYMBOLS:
            return "symbols a month"
        length = f"in {float(self.window[:-1]):g} s" if self.window not in WINDOW_S else f"a {self.window}"
        return f"calls {length}" + (f" for {' and '.join(self.lanes)}" if self.lane else "")

    @property
    def lanes(self) -> Sequence[Lane]:
        """The lanes whose calls it counts."""
        return LANES[LANES.index(self.lane) :] if self.lane else LANES

    def quota_date(self, now: datetime) -> date | None:
        """The day, or first of the month, that a call at `now` counts for in the provider's zone; none for sliding windows."""
        if not self.by_date:
            return None
        today = now.astimezone(ZoneInfo(self.zone)).date()
        return today.replace(day=1) if self.monthly else today

    def resets_at(self, now: datetime) -> datetime | None:
        """End of the current day or month; None for sliding windows."""
        day = self.quota_date(now)
        if day is None:
            return None
        following = (day + timedelta(days=32)).replace(day=1) if self.monthly else day + timedelta(days=1)
        return datetime(following.year, following.month, following.day, tzinfo=ZoneInfo(self.zone))

    def subject(self, now: datetime, symbol: str | None = None) -> str:
        """Subject of a permit for a call at `now`."""
        return subjects.quota(self.provider, self.key, self.token, self.quota_date(now), symbol)

    def headers(self, now: datetime) -> dict[str, str]:
        """NATS headers of every permit."""
        headers = {"Nats-Expected-Stream": self.stream}
        if self.window == SYMBOLS and (reset := self.resets_at(now)):
            # The stream as a whole is the limit, so last month's symbols must be gone from it: they go at the reset, never before.
            headers["Nats-TTL"] = f"{math.ceil((reset - now).total_seconds())}s"
        return headers


def lane_reserves(windows: Sequence[QuotaWindow], kept_for_manual: float, kept_for_live: float) -> Iterator[QuotaWindow]:
    """Reserves of the lanes below manual: further windows on the day, or on hour and month where there is no day.

    Live and backfill together never take what is kept for manual, backfill alone never what is kept for those two; as
    permits of a window that counts just their calls, this holds across replicas like any other limit.
    """
    daily = [w for w in windows if w.window == "day"] or [w for w in windows if w.window in ("hour", "month")]
    for window in daily:
        kept_from: dict[Lane, float] = {"live": kept_for_manual, "backfill": kept_for_manual + kept_for_live}
        above = window.limit
        for lane, kept in kept_from.items():
            # A hair more than the product, which may be a hair less than a whole number.
            limit = max(1, math.floor(window.limit * (1 - kept) + 1e-9))
            if limit < above:
                yield replace(window, limit=limit, lane=lane)
            above = limit
