"""Quota ledger: one permit is one message on the stream of its window, so no replica can exceed a limit."""

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError, NotFoundError

from contracts.message import Lane
from services.fetcher.circuit.breaker import QuotaSpentError
from services.fetcher.provider import LedgerError, ProviderError, Verdict
from services.fetcher.quota.pacer import Pacer
from services.runtime.bus import EXPECTED_LAST_SEQUENCE, MESSAGE_ID, STREAM_FULL, WINDOW_FULL, WRONG_LAST_SEQUENCE, Bus
from services.runtime.jetstream.quota_streams import LEDGER_READY, LEDGER_STATE
from services.runtime.quota import SYMBOLS, QuotaWindow

_LOST_ITS_START, _GRANTED_BEFORE = 10176, 10201

RESET_GUARD = timedelta(seconds=30)
MAX_WAIT_S = 2.0
# The server looks for lapsed permits four times a second at most.
RETRY_AFTER_S = 0.04

log = structlog.get_logger()


class LedgerChangedError(Exception):
    """Another permit was taken since the ledger was looked at."""


@dataclass(frozen=True)
class PermitRequest:
    """Permits to be taken together. `after`: only if this is the stream's last sequence. `body`: what for, if not for a call."""

    window: QuotaWindow
    count: int = 1
    symbol: str | None = None
    after: int | None = None
    body: bytes = b""


async def acquire_permits(bus: Bus, wanted: PermitRequest) -> int | None:
    """Take all of these permits or none; the sequence of the last one (0 if it is not known), or None when they do not fit.

    Raises:
        LedgerMovedError: `after` does not hold any more.
        LedgerError: the server does not answer or refuses otherwise: unknown is no permit.
    """
    window = wanted.window
    # Kept while this is repeated, and never derived from the task: that could be granted twice after a crash of the server.
    identities = [uuid.uuid4().hex for _ in range(wanted.count)]
    for timeout_s in (1.0, 2.0, 4.0):
        try:
            # An acknowledged duplicate is the same permit: the first answer was lost on its way.
            return (await _publish(bus, wanted, identities, timeout_s)).seq
        except APIError as error:
            text = error.description or ""
            if WINDOW_FULL in text or STREAM_FULL in text:
                return _is_counted(window, text)
            if error.err_code == _GRANTED_BEFORE:
                return 0
            if error.err_code == WRONG_LAST_SEQUENCE:
                raise LedgerChangedError from None
            if error.err_code != _LOST_ITS_START:
                raise LedgerError(f"the quota ledger {window.stream} refused: {text}") from error
        except nats.errors.Error:
            await asyncio.sleep(0.1)
    raise LedgerError(f"the quota ledger {window.stream} does not answer; no call without a permit")


def _is_counted(window: QuotaWindow, text: str) -> int | None:
    """Only of symbols: one that has its permit needs no other."""
    return 0 if window.window == SYMBOLS and WINDOW_FULL in text else None


async def _publish(bus: Bus, wanted: PermitRequest, identities: list[str], timeout_s: float) -> PubAck:
    now = datetime.now(UTC)
    subject, batch = wanted.window.subject(now, wanted.symbol), uuid.uuid4().hex

    def headers(number: int) -> dict[str, str]:
        own = {**wanted.window.headers(now), MESSAGE_ID: identities[number - 1]}
        if number == 1 and wanted.after is not None:
            own[EXPECTED_LAST_SEQUENCE] = str(wanted.after)
        if wanted.count > 1:
            own |= {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            own |= {"Nats-Batch-Commit": "1"} if number == wanted.count else {}
        return own

    for number in range(1, wanted.count):
        await bus.nc.publish(subject, wanted.body, headers=headers(number))
    return await bus.js.publish(subject, wanted.body, headers=headers(wanted.count), timeout=timeout_s)


async def permits_used(js: JetStreamContext, window: QuotaWindow) -> tuple[int, int]:
    """Count of permits taken in the current window, and the last sequence of its stream."""
    subject = window.subject(datetime.now(UTC))
    state = (await js.stream_info(window.stream, subjects_filter=f"{subject}.*" if window.window == SYMBOLS else subject)).state
    return sum((state.subjects or {}).values()), state.last_seq


class QuotaLedger:
    """The permits of one provider key, over all of its windows at once. Shared by every replica through the server.

    `pace`: learns from every permit, and says when the next one is this replica's to take.
    """

    def __init__(self, bus: Bus, windows: Sequence[QuotaWindow], pace: Pacer | None = None) -> None:
        self._bus = bus
        self._all = windows
        # The narrower of equally long windows first: what it refuses is not spent in the wider one.
        calls = [window for window in windows if window.window != SYMBOLS]
        self._windows = sorted(calls, key=lambda w: (w.length_s, -len(w.lane or ""), w.limit))
        self._pace = pace
        # One at a time: when a window is full its callers line up here instead of asking the server in turns.
        self._turn = asyncio.Lock()

    async def wait_ready(self) -> None:
        """Wait until every ledger stream is there with our limit and ready to be spent by."""
        said = False
        while missing := [w.stream for w in self._all if not await self._is_ready(w)]:
            if not said:
                log.warning("ledger_missing", streams=missing, action="run `quotebus migrate`; no call is made before")
                said = True
            await asyncio.sleep(0.5)

    async def acquire(self, cost: int = 1, lane: Lane = "manual") -> None:
        """Take `cost` permits of every window that counts this lane, shortest first; wait for up to PATIENCE_S for a full one.

        Raises:
            QuotaSpentError: a window is full for longer, or its reset is nearer than our clocks can be trusted.
            ProviderError: bad_request, when a window can never hold so many.
            LedgerError: the server does not answer: unknown is no permit.
        """
        windows = [window for window in self._windows if lane in window.lanes]
        for window in windows:
            if cost > window.limit:
                what = f"a call of {cost} credits never fits {window.limit} {window.describe_limit}"
                raise ProviderError(
                    Verdict.BAD_REQUEST, f"{window.provider}: {what}; ask for fewer symbols at once, or raise the limit"
                )
        if windows:
            deadline = asyncio.get_running_loop().time() + MAX_WAIT_S
            async with self._turn:
                if self._pace:
                    # Not for long: the connection is open and the request's time runs.
                    await self._pace.wait_for_slot(MAX_WAIT_S)
                await self._acquire_all(windows, cost, deadline)

    async def _acquire_all(self, windows: Sequence[QuotaWindow], cost: int, deadline: float) -> None:
        clock = asyncio.get_running_loop().time
        taken: dict[QuotaWindow, float] = {}
        # A permit that is older than its margin covers would let its call arrive too late: that window's is taken again.
        while stale := [w for w in windows if w not in taken or clock() - taken[w] > _validity_s(w)]:
            refused = await self._take_all(stale, cost, taken)
            if refused is None:
                continue
            wait_s = (refused.retry_at - datetime.now(UTC)).total_seconds() if refused.retry_at else MAX_WAIT_S
            if clock() + wait_s > deadline:
                raise refused
            if self._pace:
                self._pace.on_refused(refused.window)
            # Replicas that wait for the same permit do not all ask in the same moment.
            await asyncio.sleep(max(wait_s, RETRY_AFTER_S) + random.uniform(0, RETRY_AFTER_S))

    async def _take_all(self, windows: Sequence[QuotaWindow], cost: int, taken: dict[QuotaWindow, float]) -> QuotaSpentError | None:
        for window in windows:
            if near := reset_within_guard(window, datetime.now(UTC)):
                return QuotaSpentError(window, near, f"its {window.window} resets within {RESET_GUARD.seconds} s")
            asked = asyncio.get_running_loop().time()
            sequence = await acquire_permits(self._bus, PermitRequest(window, cost))
            if sequence is None:
                return await self._refused(window)
            taken[window] = asked
            if self._pace:
                self._pace.on_granted(window, sequence)
        return None

    async def _refused(self, window: QuotaWindow) -> QuotaSpentError:
        now = datetime.now(UTC)
        reset = window.resets_at(now)
        if reset is not None:
            until = reset.astimezone(UTC) + RESET_GUARD
        else:
            until = max(now, await self._oldest_at(window, now) + timedelta(seconds=window.length_s + window.margin_s))
        return QuotaSpentError(window, until, f"{window.limit} {window.describe_limit} are spent")

    async def _oldest_at(self, window: QuotaWindow, now: datetime) -> datetime:
        try:
            oldest = await self._bus.js.get_msg(window.stream, seq=1, subject=window.subject(now), next=True)
        except (APIError, nats.errors.Error):
            return now - timedelta(seconds=window.length_s)
        return oldest.time or now

    async def _is_ready(self, window: QuotaWindow) -> bool:
        try:
            config = (await self._bus.js.stream_info(window.stream)).config
        except (NotFoundError, nats.errors.Error):
            return False
        whole = bool(config.allow_msg_ttl if window.window == SYMBOLS else config.allow_atomic)
        return whole and (config.metadata or {}).get(LEDGER_STATE) == LEDGER_READY


def _validity_s(window: QuotaWindow) -> float:
    """For how long after it was asked for a permit may be used."""
    return RESET_GUARD.total_seconds() / 2 if window.by_date else window.margin_s / 2


def reset_within_guard(window: QuotaWindow, now: datetime) -> datetime | None:
    """Retry time if a reset is so near that a call could count for the other day; else None."""
    if not window.by_date:
        return None
    if window.quota_date(now + RESET_GUARD) != window.quota_date(now - RESET_GUARD):
        reset = window.resets_at(now - RESET_GUARD)
        assert reset is not None
        return reset.astimezone(UTC) + RESET_GUARD
    return None
