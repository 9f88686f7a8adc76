"""Limits observed in answers: rate-limit headers and refusals slow the pace and consume permits."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError

from services.fetcher.accounts import ApiKey
from services.fetcher.adapter.responses import retry_after
from services.fetcher.circuit.key_state import KeyState, KeyStateStore
from services.fetcher.provider import LedgerError, Reply
from services.fetcher.quota.ledger import LedgerChangedError, PermitRequest, acquire_permits, permits_used
from services.fetcher.quota.pacer import LONGEST_PACED_S
from services.runtime.bus import Bus
from services.runtime.quota import LARGEST_BATCH, SYMBOLS, QuotaWindow

# X-RateLimit-Remaining, X-Rate-Limit-Remaining-Day, X-RateLimit-Requests-Remaining, RateLimit-Remaining, and so on.
_NAME = re.compile(
    r"(?:x-)?rate-?limit(?:-requests)?(?:-(?P<before>second|minute|hour|day|month))?-(?P<what>remaining|limit|reset)"
    r"(?:-(?:requests-)?(?P<after>second|minute|hour|day|month))?"
)
# The one header of the drafts of RFC: `limit=100, remaining=50, reset=30`, later `"default";r=50;t=30`.
_FIELD = re.compile(r"\b(limit|remaining|reset|r|t|q)\s*=\s*(\d+)")
_SHORT = {"r": "remaining", "t": "reset", "q": "limit"}
_EPOCH_S, _EPOCH_MS = 1_000_000_000, 1_000_000_000_000

CHECK_EVERY_S = 1.0
TRIES = 3
CONSUMED_BODY = b"burned: the provider says it is spent"
# A provider whose limit is nearly ours only rounds otherwise.
ALIKE = 0.95

log = structlog.get_logger()


@dataclass(frozen=True)
class RateLimitHeader:
    """`remaining` calls of `limit`; `reset_at` in UTC. `window`: second to month, if the header's name says so."""

    remaining: int | None = None
    limit: int | None = None
    reset_at: datetime | None = None
    window: str | None = None

    def match_window(self, windows: Sequence[QuotaWindow], now: datetime) -> QuotaWindow | None:
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
class ResponseObserver:
    """Observes the rate limits in the responses of one call. `throttled`: one was a 429; `retry_at`: when it allows a retry."""

    throttled: bool = False
    retry_at: datetime | None = None
    allowances: Sequence[RateLimitHeader] = ()

    def observe(self, reply: Reply) -> None:
        """Take note of a reply; of allowances the last reply's count."""
        now = datetime.now(UTC)
        if reply.status == 429:
            self.throttled, self.retry_at = True, retry_after(reply, now) or self.retry_at
        self.allowances = rate_limit_headers(reply.headers, now) or self.allowances
        if reply.status == 429 and self.retry_at is None:
            spent = [each.reset_at for each in self.allowances if each.remaining == 0 and each.reset_at]
            self.retry_at = max(spent, default=None)


def rate_limit_headers(headers: Mapping[str, str], now: datetime) -> list[RateLimitHeader]:
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
        RateLimitHeader(_number(each.get("remaining")), _number(each.get("limit")), _instant(each.get("reset"), now), window)
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


class ObservedLimits:
    """Learns for one key. `provider`, `key`: whose ledger it is."""

    def __init__(self, bus: Bus, states: KeyStateStore, provider: str, key: ApiKey) -> None:
        self._bus = bus
        self._states = states
        self._provider = provider
        self._key = key
        self._looked: dict[str, float] = {}

    async def observe(self, allowances: Sequence[RateLimitHeader], called_at: datetime) -> None:
        """Take over what the replies of a call that began at `called_at` told. Best effort: the next reply tells again."""
        for allowance in allowances:
            window = allowance.match_window(self._key.windows, datetime.now(UTC))
            if window is None:
                continue
            if allowance.limit is not None:
                await self._limit(window, allowance.limit)
            if allowance.remaining is not None and self._is_time(window):
                try:
                    await self._remaining(window, allowance.remaining, called_at)
                except (LedgerError, APIError, nats.errors.Error) as error:
                    log.debug("permits_not_burned", stream=window.stream, error=str(error))

    async def _limit(self, window: QuotaWindow, limit: int) -> None:
        share = limit / window.limit
        ceilings = {} if share >= ALIKE else {window.window: max(0.01, round(share, 2))}

        def lower(state: KeyState) -> KeyState | None:
            wanted = {name: known for name, known in state.ceilings.items() if name != window.window} | ceilings
            return None if wanted == state.ceilings else msgspec.structs.replace(state, ceilings=wanted)

        if window.length_s > LONGEST_PACED_S or lower(self._states.get(self._provider, self._key.name)) is None:
            return
        if await self._states.update(self._provider, self._key.name, lower):
            log.warning(
                "limit_learned", provider=self._provider, key=self._key.name, window=window.window, ours=window.limit, theirs=limit,
                action=f"the pace keeps to theirs; set providers.{self._provider}.per_{window.window} to what the plan has",
            )  # fmt: skip

    def _is_time(self, window: QuotaWindow) -> bool:
        now = datetime.now(UTC).timestamp()
        if now - self._looked.get(window.token, 0.0) < CHECK_EVERY_S:
            return False
        self._looked[window.token] = now
        return True

    async def _remaining(self, window: QuotaWindow, theirs: int, called_at: datetime) -> None:
        # What lapsed of a sliding window while the call was under way is free for us and not yet for them.
        took_s = (datetime.now(UTC) - called_at).total_seconds() + 1
        slack = 0 if window.by_date else max(1, math.ceil(window.limit * took_s / window.length_s))
        for _ in range(TRIES):
            used, last = await permits_used(self._bus.js, window)
            extra = window.limit - used - theirs
            if extra <= slack:
                return
            try:
                await self._consume_unused(window, extra, last)
            except LedgerChangedError:
                continue
            if window.length_s >= 3600:
                log.warning(
                    "permits_burned", provider=self._provider, key=self._key.name, window=window.window, permits=extra, left=theirs,
                    reason="the provider says that fewer calls are left: does somebody else use this key?",
                )  # fmt: skip
            return

    async def _consume_unused(self, window: QuotaWindow, permits: int, last: int) -> None:
        """Take permits that nobody will use, unless others were taken since `last`; the lanes' shares lose as many."""
        while permits > 0:
            batch = min(permits, LARGEST_BATCH)
            if not (last := await acquire_permits(self._bus, PermitRequest(window, batch, after=last, body=CONSUMED_BODY)) or 0):
                return
            for share in self._key.windows:
                if share.window == window.window and share.lane:
                    used, _ = await permits_used(self._bus.js, share)
                    await acquire_permits(
                        self._bus, PermitRequest(share, min(batch, max(1, share.limit - used)), body=CONSUMED_BODY)
                    )
            permits -= batch
