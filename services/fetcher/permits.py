"""One permit, or several at once, of one window: a publish that the window's stream accepts or refuses."""

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError

from services.fetcher.provider import LedgerError
from services.runtime.bus import EXPECTED_LAST_SEQUENCE, MESSAGE_ID, STREAM_FULL, WINDOW_FULL, WRONG_LAST_SEQUENCE, Bus
from services.runtime.quota import SYMBOLS, QuotaWindow

_LOST_ITS_START, _GRANTED_BEFORE = 10176, 10201


class LedgerMovedError(Exception):
    """Another permit was taken since the ledger was looked at."""


@dataclass(frozen=True)
class Wanted:
    """Permits to be taken together. `after`: only if this is the stream's last sequence. `body`: what for, if not for a call."""

    window: QuotaWindow
    count: int = 1
    symbol: str | None = None
    after: int | None = None
    body: bytes = b""


async def take(bus: Bus, wanted: Wanted) -> int | None:
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
                return _counted_already(window, text)
            if error.err_code == _GRANTED_BEFORE:
                return 0
            if error.err_code == WRONG_LAST_SEQUENCE:
                raise LedgerMovedError from None
            if error.err_code != _LOST_ITS_START:
                raise LedgerError(f"the quota ledger {window.stream} refused: {text}") from error
        except nats.errors.Error:
            await asyncio.sleep(0.1)
    raise LedgerError(f"the quota ledger {window.stream} does not answer; no call without a permit")


def _counted_already(window: QuotaWindow, text: str) -> int | None:
    """Only of symbols: one that has its permit needs no other."""
    return 0 if window.window == SYMBOLS and WINDOW_FULL in text else None


async def _publish(bus: Bus, wanted: Wanted, identities: list[str], timeout_s: float) -> PubAck:
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


async def used_permits(js: JetStreamContext, window: QuotaWindow) -> tuple[int, int]:
    """How many permits of the current window are taken, and the last sequence of its stream."""
    subject = window.subject(datetime.now(UTC))
    state = (await js.stream_info(window.stream, subjects_filter=f"{subject}.*" if window.window == SYMBOLS else subject)).state
    return sum((state.subjects or {}).values()), state.last_seq
