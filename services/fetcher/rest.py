"""When a provider rests: cool-downs after refusals, the breaker after failures; replicas share them as paused consumers."""

from datetime import UTC, datetime, timedelta

import nats.errors
import structlog
from nats.js.errors import APIError
from nats.js.kv import KeyValue

from contracts import subjects
from contracts.message import LANES
from services.fetcher.ledger import QuotaSpentError
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.reports import tell_state
from services.fetcher.verdicts import CONSEQUENCES, MAX_NAK_S
from services.runtime.bus import Bus

LONGEST_COOL_DOWN_S = 900.0
BREAKER_PROBE_S = 30.0

log = structlog.get_logger()


class Rest:
    """Until when one provider is left alone, and why."""

    def __init__(self, bus: Bus, state: KeyValue, provider: str, breaker_failures: int) -> None:
        self._bus = bus
        self._state = state
        self._provider = provider
        self._limit = breaker_failures
        self._failures = 0
        self._refusals = 0
        self.until: datetime | None = None

    def remaining_s(self) -> float:
        """Seconds until the next call may be made."""
        return max(0.0, (self.until - datetime.now(UTC)).total_seconds()) if self.until else 0.0

    async def answered(self) -> None:
        """A call brought data: whatever was wrong is over."""
        if self._failures or self._refusals or self.until:
            self._failures = self._refusals = 0
            self.until = None
            await tell_state(self._state, self._provider, state="ok")

    async def failed(self, error: ProviderError) -> None:
        """A call failed as a whole: rest if its verdict or the breaker says so."""
        rule = CONSEQUENCES[error.verdict]
        if isinstance(error, QuotaSpentError) and error.retry_at:
            await self._begin(error.retry_at, "quota_spent", error)
        elif rule.cool_down_s:
            self._refusals += 1
            rest_s = min(rule.cool_down_s * 2 ** (self._refusals - 1), max(LONGEST_COOL_DOWN_S, rule.cool_down_s))
            until = error.retry_at or datetime.now(UTC) + timedelta(seconds=rest_s)
            await self._begin(until, "stopped" if error.verdict is Verdict.UNAUTHORIZED else "cooling_down", error)
        elif rule.breaker:
            self._failures += 1
            if self._failures >= self._limit:
                await self._begin(datetime.now(UTC) + timedelta(seconds=BREAKER_PROBE_S), "breaker_open", error)
        else:
            await self.answered()

    async def _begin(self, until: datetime, state: str, error: ProviderError) -> None:
        self.until = until
        rest_s = self.remaining_s()
        alert = log.error if error.verdict is Verdict.UNAUTHORIZED else log.warning
        alert("provider_rests", provider=self._provider, state=state, until=until.isoformat(), reason=error.message)
        await tell_state(self._state, self._provider, state=state, until=until.isoformat(), reason=error.message)
        if rest_s > MAX_NAK_S:
            # Paused on the server, so that every replica rests and no message goes back and forth.
            for lane in LANES:
                await self._pause(subjects.lane_consumer(self._provider, lane), until)

    async def _pause(self, consumer: str, until: datetime) -> None:
        try:
            await self._bus.js.pause_consumer(subjects.TASKS, consumer, until.isoformat().replace("+00:00", "Z"))
        except (APIError, nats.errors.Error) as error:
            log.debug("not_paused", consumer=consumer, error=str(error))
