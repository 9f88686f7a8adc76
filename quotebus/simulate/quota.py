"""A vendor's own count of what it was asked, by its own clock: sliding windows, and the day and month of its zone."""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from services.fetcher.provider import Limits

SLIDING_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}


@dataclass(frozen=True)
class Violation:
    """A request that came while a window was full: `spent` of `limit` were counted there, and it weighed `weight`."""

    at: datetime
    window: str
    limit: int
    spent: int
    weight: int


@dataclass
class Quota:
    """Counts the requests it lets through. What it refuses is not counted, as the caller will have to come again."""

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    violations: list[Violation] = field(default_factory=list)
    _sliding: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _dated: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def take(self, weight: int, now: datetime) -> tuple[str, datetime] | None:
        """Count a request. Or, where a window has no room: its name, and when it will have room again."""
        instant = self.clock()
        limits = {
            name.removeprefix("per_"): limit for name, limit in asdict(self.limits).items() if name.startswith("per_") and limit
        }
        for window, limit in limits.items():
            spent = self._spent(window, instant, now)
            if spent + weight > limit:
                self.violations.append(Violation(now, window, limit, spent, weight))
                return window, self._again_at(window, instant, now)
        for window in limits:
            if window in SLIDING_S:
                self._sliding[window].extend([instant] * weight)
            else:
                self._dated[window, self._date(window, now)] += weight
        return None

    def _spent(self, window: str, instant: float, now: datetime) -> int:
        if window not in SLIDING_S:
            return self._dated[window, self._date(window, now)]
        calls = self._sliding[window]
        while calls and calls[0] <= instant - SLIDING_S[window]:
            calls.popleft()
        return len(calls)

    def _again_at(self, window: str, instant: float, now: datetime) -> datetime:
        if window in SLIDING_S:
            oldest = self._sliding[window][0] if self._sliding[window] else instant
            return now + timedelta(seconds=oldest + SLIDING_S[window] - instant)
        midnight = now.astimezone(ZoneInfo(self.limits.day_zone)).replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1) if window == "month" else midnight + timedelta(days=1)

    def _date(self, window: str, now: datetime) -> str:
        local = now.astimezone(ZoneInfo(self.limits.day_zone))
        return f"{local:%Y-%m}" if window == "month" else f"{local:%Y-%m-%d}"
