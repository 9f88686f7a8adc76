"""The quota ledger: one stream per limit, one stored message per permit, so the server itself refuses the call too many.

A permit is a publish that the stream accepted; a full stream is a spent window. Its id is a fresh one per HTTP attempt, kept only
while that publish is repeated: an id derived from a task could be granted twice after a crash of the server. A permit is never
given back, for its call may have left.
"""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError

from services.fetcher.provider import ProviderError, Verdict
from services.runtime.bus import Bus
from services.runtime.topology import LEDGER_READY, LEDGER_STATE, WINDOW_S, QuotaWindow

WINDOW_FULL = "maximum messages per subject exceeded"
RESET_GUARD = timedelta(seconds=30)
PATIENCE_S = 2.0

log = structlog.get_logger()


class QuotaSpentError(ProviderError):
    """No permit now: the window is full until `retry_at`."""

    def __init__(self, window: QuotaWindow, retry_at: datetime, why: str) -> None:
        super().__init__(Verdict.RATE_LIMITED, f"{window.provider}: {why}; next call at {retry_at:%Y-%m-%dT%H:%M:%SZ}", retry_at)
        self.window = window


class Ledger:
    """The permits of one provider key, over all of its windows at once. Shared by every replica through the server."""

    def __init__(self, bus: Bus, windows: Sequence[QuotaWindow]) -> None:
        self._bus = bus
        self._windows = windows

    async def open(self) -> None:
        """Wait until every ledger stream is there with our limit and ready to be spent by."""
        said = False
        while missing := [w.stream for w in self._windows if not await self._is_ready(w)]:
            if not said:
                log.warning("ledger_missing", streams=missing, action="run `quotebus migrate`; no call is made before")
                said = True
            await asyncio.sleep(0.5)

    async def permit(self, cost: int = 1) -> None:
        """Take `cost` permits of every window, shortest window first; wait for up to PATIENCE_S for a full one.

        Raises:
            QuotaSpentError: a window is full for longer, or its reset is nearer than our clocks can be trusted.
            ProviderError: the server does not answer: unknown is no permit.
        """
        if not self._windows:
            return
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            started = asyncio.get_running_loop().time()
            refused = await self._take_all(cost)
            now = asyncio.get_running_loop().time()
            if refused is not None:
                wait_s = (refused.retry_at - datetime.now(UTC)).total_seconds() if refused.retry_at else PATIENCE_S
                if now + wait_s > deadline:
                    raise refused
                await asyncio.sleep(max(wait_s, 0.01))
            elif now - started <= self._windows[0].margin_s / 2:
                return
            # Granted too slowly: the call would arrive later than the margin covers, so it needs another permit.

    async def _take_all(self, cost: int) -> QuotaSpentError | None:
        for window in self._windows:
            now = datetime.now(UTC)
            if near := _reset_nearby(window, now):
                return QuotaSpentError(window, near, f"its {window.window} resets within {RESET_GUARD.seconds} s")
            for _ in range(cost):
                if not await self._take(window, now):
                    return await self._refused(window)
        return None

    async def _take(self, window: QuotaWindow, now: datetime) -> bool:
        identity = uuid.uuid4().hex
        for timeout_s in (1.0, 2.0, 4.0):
            headers = {"Nats-Msg-Id": identity, "Nats-Expected-Stream": window.stream}
            try:
                # An acknowledged duplicate is the same permit: the first answer was lost on its way.
                await self._bus.js.publish(window.subject(now), b"", headers=headers, timeout=timeout_s)
                return True
            except APIError as error:
                if WINDOW_FULL in (error.description or ""):
                    return False
                what = f"the quota ledger {window.stream} refused: {error.description}"
                raise ProviderError(Verdict.SERVER_ERROR, what) from error
            except nats.errors.Error:
                continue
        raise ProviderError(Verdict.SERVER_ERROR, f"the quota ledger {window.stream} does not answer; no call without a permit")

    async def _refused(self, window: QuotaWindow) -> QuotaSpentError:
        now = datetime.now(UTC)
        reset = window.resets_at(now)
        if reset is not None:
            until = reset.astimezone(UTC) + RESET_GUARD
        else:
            until = max(now, await self._oldest_at(window, now) + timedelta(seconds=WINDOW_S[window.window] + window.margin_s))
        return QuotaSpentError(window, until, f"{window.limit} calls a {window.window} are spent")

    async def _oldest_at(self, window: QuotaWindow, now: datetime) -> datetime:
        try:
            oldest = await self._bus.js.get_msg(window.stream, seq=1, subject=window.subject(now), next=True)
        except (APIError, nats.errors.Error):
            return now - timedelta(seconds=WINDOW_S[window.window])
        return oldest.time or now

    async def _is_ready(self, window: QuotaWindow) -> bool:
        try:
            info = await self._bus.js.stream_info(window.stream)
        except (NotFoundError, nats.errors.Error):
            return False
        return (info.config.metadata or {}).get(LEDGER_STATE) == LEDGER_READY


def _reset_nearby(window: QuotaWindow, now: datetime) -> datetime | None:
    """When to come back, if a reset is so near that a call could count for the other day."""
    if not window.by_date:
        return None
    if window.quota_date(now + RESET_GUARD) != window.quota_date(now - RESET_GUARD):
        reset = window.resets_at(now - RESET_GUARD)
        assert reset is not None
        return reset.astimezone(UTC) + RESET_GUARD
    return None
