"""The pace of one provider key: calls spread evenly over its tightest short window, together with the other replicas'.

It smooths; the ledger guarantees. A bucket spreads this process's calls. The ledger's sequences tell how many permits all replicas
took since our last one: they ought to have taken so much time, and if they were faster our next call waits by as much longer. So
replicas share a window without knowing of each other, and its permits lapse as evenly as they were taken.
"""

import asyncio

from aiolimiter import AsyncLimiter

from services.fetcher.accounts import ApiKey
from services.runtime.quota import QuotaWindow

LONGEST_PACED_S = 60.0
# Permits that come so much later than they might, in shares of their own time: there is room, nobody waits for anybody.
IDLE_FACTOR = 2.0
CATCH_UP = 1.0
# How much later than it might the server lets go of a lapsed permit, on average.
LATE_S = 0.125
# What a key with none but long windows is slowed down from.
UNPACED_PER_S = 1.0


class Pacer:
    """Paces the calls of one key in this process. `factor`: share of the full rate, lowered by observed throttling."""

    def __init__(self, key: ApiKey, burst: int) -> None:
        short = [w for w in key.windows if w.length_s <= LONGEST_PACED_S and w.lane is None]
        self.window = min(short, key=lambda w: w.limit / _permit_lifetime_s(w), default=None)
        self._burst = burst
        self._factor = 1.0
        self._limiter = self._bucket()
        self._sequence = 0
        self._schedule = self._next_at = 0.0
        self._waited = False

    @property
    def interval_s(self) -> float:
        """The time from one call to the next when they are spread evenly; 0: nothing spreads them."""
        return _permit_lifetime_s(self.window) / self.window.limit if self.window else 0.0

    @property
    def factor(self) -> float:
        return self._factor

    @factor.setter
    def factor(self, factor: float) -> None:
        if factor != self._factor:
            self._factor = factor
            self._limiter = self._bucket()

    async def wait_for_turn(self, cost: int = 1) -> None:
        """Return when a call of so many permits may leave."""
        if self._limiter is not None:
            for _ in range(cost):
                await self._limiter.acquire()
        await self.wait_for_slot()

    async def wait_for_slot(self, at_most_s: float = LONGEST_PACED_S) -> None:
        """Return when the others have had their permits; at once while the window has room for all."""
        await asyncio.sleep(min(at_most_s, max(0.0, self._next_at - asyncio.get_running_loop().time())))

    def on_refused(self, window: QuotaWindow) -> None:
        """Note that a window is full: whoever waits for it is one of several, however long ago our last permit was."""
        self._waited = self._waited or window == self.window

    def on_granted(self, window: QuotaWindow, sequence: int) -> None:
        """Note a permit of ours: those between it and our last one are others'."""
        if window != self.window or not sequence:
            return
        now = asyncio.get_running_loop().time()
        taken = sequence - self._sequence if self._sequence else 1
        own_s = min(taken * _permit_lifetime_s(window) / window.limit / self._factor, window.length_s)
        late_s = now - (self._schedule + own_s)
        free = late_s > IDLE_FACTOR * own_s and not self._waited
        # What was missed is caught up with a little at a time, else it would be caught up with by all replicas at once.
        self._schedule = now - min(late_s, CATCH_UP * own_s)
        # As many permits as were taken since our last one are taken before our next one, if there is work for all.
        self._next_at = now if free or taken <= self._burst else self._schedule + own_s
        self._sequence, self._waited = sequence, False

    def _bucket(self) -> AsyncLimiter | None:
        if self.window is not None:
            rate = self.window.limit / _permit_lifetime_s(self.window)
        elif self._factor < 1:
            rate = UNPACED_PER_S
        else:
            return None
        return AsyncLimiter(self._burst, self._burst / (rate * self._factor))


def _permit_lifetime_s(window: QuotaWindow) -> float:
    """Lifetime in seconds for which a permit takes up room in its window."""
    return window.length_s + window.margin_s + LATE_S
