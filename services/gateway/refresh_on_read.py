"""Refresh on read (stale-while-revalidate): a stale price that is read is asked for again, once, within a rate limit."""

import asyncio
from collections import defaultdict

import structlog
from aiolimiter import AsyncLimiter

from contracts import subjects
from contracts.datasets import DATASET_NAMES
from contracts.message import TIMEFRAMES
from contracts.refresh_request import RefreshRequest
from services.gateway.errors import NATS_TROUBLE
from services.gateway.price_reader import Kind
from services.runtime.bus import Bus
from services.runtime.prices.document import ttl_s
from services.runtime.settings import RedisSettings

# So long wishes are gathered: many symbols make one run instead of many.
GATHER_S = 0.25
_REMEMBERED = 10_000

log = structlog.get_logger()


class StaleReadRefresher:
    """Asks for what was read and is stale: each document at most once as long as it would be kept."""

    def __init__(self, bus: Bus, settings: RedisSettings, per_minute: int) -> None:
        self._bus = bus
        self._settings = settings
        self._limiter = AsyncLimiter(per_minute, 60) if per_minute else None
        self._asked: dict[tuple[Kind, str], float] = {}
        self._wanted: dict[Kind, set[str]] = defaultdict(set)
        self._some = asyncio.Event()

    def note(self, kind: Kind, symbol: str) -> bool:
        """Take note of a stale document; whether a refresh of it is under way."""
        now = asyncio.get_running_loop().time()
        key = kind, symbol
        asked_at = self._asked.get(key)
        if asked_at is not None and now - asked_at < ttl_s(self._settings, kind):
            return True
        if self._limiter is None or not self._limiter.has_capacity(self._waiting + 1):
            return False
        if len(self._asked) >= _REMEMBERED:
            self._asked.clear()
        self._asked[key] = now
        self._wanted[kind].add(symbol)
        self._some.set()
        return True

    @property
    def _waiting(self) -> int:
        return sum(map(len, self._wanted.values()))

    async def run(self) -> None:
        """Publish what is wanted, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self._some.clear()
            wanted, self._wanted = self._wanted, defaultdict(set)
            for kind, symbols in wanted.items():
                if self._limiter is not None:
                    await self._limiter.acquire(len(symbols))
                await self._publish(kind, sorted(symbols))

    async def _publish(self, kind: Kind, symbols: list[str]) -> None:
        timeframe = next((each for each in TIMEFRAMES if each == kind), None)
        request = RefreshRequest(
            symbols=symbols,
            dataset=next((each for each in DATASET_NAMES if each == kind), "bars"),
            timeframe=timeframe,
            # Somebody else may have asked, or another gateway.
            max_age_s=ttl_s(self._settings, kind),
        )
        try:
            ack = await self._bus.publish(subjects.refresh_request("live"), request)
            log.info("stale_prices_refreshed", kind=kind, symbols=len(symbols), run_id=str(ack.seq))
        except NATS_TROUBLE as error:
            for symbol in symbols:
                self._asked.pop((kind, symbol), None)
            log.warning("stale_refresh_failed", kind=kind, symbols=len(symbols), error=str(error) or type(error).__name__)
