"""What a reply's headers tell about the provider's own count: how many calls are left, of how many, until when."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from services.fetcher.adapter.responses import retry_after
from services.fetcher.provider import Reply
from services.runtime.quota import SYMBOLS, QuotaWindow

# X-RateLimit-Remaining, X-Rate-Limit-Remaining-Day, X-RateLimit-Requests-Remaining, RateLimit-Remaining, and so on.
_NAME = re.compile(
    r"(?:x-)?rate-?limit(?:-requests)?(?:-(?P<before>second|minute|hour|day|month))?-(?P<what>remaining|limit|reset)"
    r"(?:-(?:requests-)?(?P<after>second|minute|hour|day|month))?"
)
# The one header of the drafts of RFC: `limit=100, remaining=50, reset=30`, later `"default";r=50;t=30`.
_FIELD = re.compile(r"\b(limit|remaining|reset|r|t|q)\s*=\s*(\d+)")
_SHORT = {"r": "remaining", "t": "reset", "q": "limit"}
_EPOCH_S, _EPOCH_MS = 1_000_000_000, 1_000_000_000_000


@dataclass(frozen=True)
class Allowance:
    """`remaining` calls of `limit`; `reset_at` in UTC. `window`: second to month, if the header's name says so."""

    remaining: int | None = None
    limit: int | None = None
    reset_at: datetime | None = None
    window: str | None = None

    def of(self, windows: Sequence[QuotaWindow], now: datetime) -> QuotaWindow | None:
        """Which of our windows is meant: by its name, its limit, when it resets, or as there is no other; None if unclear."""
        own = [window for window in windows if window.lane is None and window.window != SYMBOLS]
        if self.window:
            return next((window for window in own if window.window == self.window), None)
        if alike := [window for window in own if window.limit == self.limit]:
            return alike[0]
        if self.reset_at is not None:
            ahead_s = (self.reset_at - now).total_seconds()
            return next((window for window in own if window.length_s >= ahead_s), None)
        return own[0] if len(own) == 1 else None


@dataclass
class Heard:
    """What the replies of one call told. `throttled`: one was a 429; `retry_at`: when it said to come back."""

    throttled: bool = False
    retry_at: datetime | None = None
    allowances: Sequence[Allowance] = ()

    def reply(self, reply: Reply) -> None:
        """Take note of a reply; of allowances the last reply's count."""
        now = datetime.now(UTC)
        if reply.status == 429:
            self.throttled, self.retry_at = True, retry_after(reply, now) or self.retry_at
        self.allowances = allowances_in(reply.headers, now) or self.allowances
        if reply.status == 429 and self.retry_at is None:
            spent = [each.reset_at for each in self.allowances if each.remaining == 0 and each.reset_at]
            self.retry_at = max(spent, default=None)


def allowances_in(headers: Mapping[str, str], now: datetime) -> list[Allowance]:
    """The allowances that headers (names in lower case) tell of, one a window. What cannot be read is left out."""
    found: dict[str | None, dict[str, str]] = {}
    for name, text in headers.items():
        if match := _NAME.fullmatch(name):
            found.setdefault(match["before"] or match["after"], {})[match["what"]] = text
        elif name == "ratelimit":
            found[None] = {_SHORT.get(what, what): number for what, number in _FIELD.findall(text)} | found.get(None, {})
        elif name == "api-credits-left":
            found.setdefault("minute", {})["remaining"] = text
    told = [
        Allowance(_number(each.get("remaining")), _number(each.get("limit")), _instant(each.get("reset"), now), window)
        for window, each in found.items()
    ]
    return [each for each in told if each.remaining is not None or each.limit is not None]


def _number(text: str | None) -> int | None:
    # Of `100, 100;w=60` the first is meant.
    match = re.match(r"\s*(\d{1,12})(?!\d)", text or "")
    return int(match[1]) if match else None


def _instant(text: str | None, now: datetime) -> datetime | None:
    """Seconds from now, seconds or milliseconds since 1970, or a date."""
    try:
        number = float(text or "")
    except ValueError:
        return _date(text or "")
    if not math.isfinite(number) or number < 0:
        return None
    if number >= _EPOCH_S:
        seconds = number / 1000 if number >= _EPOCH_MS else number
        return datetime.fromtimestamp(seconds, UTC) if seconds < 10 * _EPOCH_S else None
    return now + timedelta(seconds=min(number, 366 * 86400))


def _date(text: str) -> datetime | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            instant = read(text)
            return instant.astimezone(UTC) if instant.tzinfo else None
        except (ValueError, OverflowError):
            continue
    return None
