"""What a provider's own count teaches: its limit may be lower than ours, and somebody else may spend by the same key.

A ledger's limit never changes for it. Where fewer calls remain than we think the difference is taken as permits that nobody uses;
where the limit is lower the pace is lowered to it.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError

from services.fetcher.accounts import Key
from services.fetcher.allowance import Allowance
from services.fetcher.circuit.key_state import KeyState, KeyStateStore
from services.fetcher.pace import LONGEST_PACED_S
from services.fetcher.permits import LedgerMovedError, Wanted, take, used_permits
from services.fetcher.provider import LedgerError
from services.runtime.bus import Bus
from services.runtime.quota import LARGEST_BATCH, QuotaWindow

LOOK_EVERY_S = 1.0
TRIES = 3
BURNED = b"burned: the provider says it is spent"
# A provider whose limit is nearly ours only rounds otherwise.
ALIKE = 0.95

log = structlog.get_logger()


class Learner:
    """Learns for one key. `provider`, `key`: whose ledger it is."""

    def __init__(self, bus: Bus, states: KeyStateStore, provider: str, key: Key) -> None:
        self._bus = bus
        self._states = states
        self._provider = provider
        self._key = key
        self._looked: dict[str, float] = {}

    async def learn(self, allowances: Sequence[Allowance], called_at: datetime) -> None:
        """Take over what the replies of a call that began at `called_at` told. Best effort: the next reply tells again."""
        for allowance in allowances:
            window = allowance.of(self._key.windows, datetime.now(UTC))
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
        if now - self._looked.get(window.token, 0.0) < LOOK_EVERY_S:
            return False
        self._looked[window.token] = now
        return True

    async def _remaining(self, window: QuotaWindow, theirs: int, called_at: datetime) -> None:
        # What lapsed of a sliding window while the call was under way is free for us and not yet for them.
        took_s = (datetime.now(UTC) - called_at).total_seconds() + 1
        slack = 0 if window.by_date else max(1, math.ceil(window.limit * took_s / window.length_s))
        for _ in range(TRIES):
            used, last = await used_permits(self._bus.js, window)
            extra = window.limit - used - theirs
            if extra <= slack:
                return
            try:
                await self._burn(window, extra, last)
            except LedgerMovedError:
                continue
            if window.length_s >= 3600:
                log.warning(
                    "permits_burned", provider=self._provider, key=self._key.name, window=window.window, permits=extra, left=theirs,
                    reason="the provider says that fewer calls are left: does somebody else use this key?",
                )  # fmt: skip
            return

    async def _burn(self, window: QuotaWindow, permits: int, last: int) -> None:
        """Take permits that nobody will use, unless others were taken since `last`; the lanes' shares lose as many."""
        while permits > 0:
            batch = min(permits, LARGEST_BATCH)
            if not (last := await take(self._bus, Wanted(window, batch, after=last, body=BURNED)) or 0):
                return
            for share in self._key.windows:
                if share.window == window.window and share.lane:
                    used, _ = await used_permits(self._bus.js, share)
                    await take(self._bus, Wanted(share, min(batch, max(1, share.limit - used)), body=BURNED))
            permits -= batch
