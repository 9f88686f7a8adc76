"""Circuit breakers of API keys and of providers: closed while calls are allowed, open after refusals, spent quotas or failures.

The state of a key is shared by all replicas. When the time of an open circuit is over, the first replica that writes `half_open`
makes a single call, the probe; its outcome closes the circuit for everybody or opens it for longer.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from contracts.message import LANES, Lane
from services.fetcher.circuit.key_state import KeyState, KeyStateStore, State, Update, already_blocks_until, opened, unexpired_lanes
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.retry_policy import MAX_NAK_S, RETRY_POLICIES, RetryPolicy
from services.runtime.quota import QuotaWindow

MAX_COOL_DOWN_S = 900.0
# However late the provider says to come back: a call a day costs little, and a wrong date must not end the work.
MAX_OPEN = timedelta(days=1)
PROBE_S = 60.0
SLOWEST_PACE = 1 / 16
# A spent quota ends by the clock; after these nobody knows whether the provider is well again.
NEEDS_PROBE = frozenset[State]({"cooling_down", "stopped", "breaker_open", "half_open"})
_NEVER = datetime.max.replace(tzinfo=UTC)

log = structlog.get_logger()


class QuotaSpentError(ProviderError):
    """A quota window without a permit left: full until `retry_at`."""

    def __init__(self, window: QuotaWindow, retry_at: datetime, why: str) -> None:
        super().__init__(Verdict.RATE_LIMITED, f"{window.provider}: {why}; next call at {retry_at:%Y-%m-%dT%H:%M:%SZ}", retry_at)
        self.window = window


class KeyCircuit:
    """Circuit breaker and cool-down of one API key. `on_open`: called whenever calls are blocked anew."""

    def __init__(self, states: KeyStateStore, provider: str, key: str, breaker_failures: int, breaker_pause_s: float) -> None:
        self._states = states
        self._provider = provider
        self._key = key
        self._limit = breaker_failures
        self._pause_s = breaker_pause_s
        self._failures = 0
        self._probe_from: datetime | None = None
        self._waits: dict[Lane, datetime] = {}
        self.on_open: list[Callable[[], None]] = []

    @property
    def state(self) -> KeyState:
        """State of the key as all replicas know it."""
        return self._states.get(self._provider, self._key)

    def retry_in_s(self, lane: Lane = "manual") -> float:
        """Seconds until the next call of this lane is allowed; 0: now."""
        now = datetime.now(UTC)
        ends = [end for end in (self.state.blocked_until(lane, now), self._waits.get(lane)) if end]
        return max(0.0, (max(ends) - now).total_seconds()) if ends else 0.0

    def allowed_lanes(self) -> list[Lane]:
        """Lanes whose calls are allowed now."""
        return [lane for lane in LANES if not self.retry_in_s(lane)]

    async def reset_on_start(self) -> None:
        """Close a circuit that new settings may have mended: a key that was refused, a limit that was spent."""

        def reset(state: KeyState) -> KeyState | None:
            mended = state.state in ("stopped", "quota_spent")
            if not mended and not state.lanes:
                return None
            closed = msgspec.structs.replace(state, state="ok", until=None, reason=None, refusals=0) if mended else state
            return msgspec.structs.replace(closed, lanes={})

        await self._states.update(self._provider, self._key, reset)

    @property
    def probing(self) -> bool:
        """True while this process has a probe in flight."""
        return self._probe_from is not None

    async def try_acquire(self) -> bool:
        """Allow a call that no block forbids; of a circuit that needs a probe only one caller of all replicas gets a yes."""
        if self.state.state not in NEEDS_PROBE:
            return True
        now = datetime.now(UTC)

        def probe(state: KeyState) -> KeyState | None:
            if state.state not in NEEDS_PROBE or (state.until and state.until > now):
                return None
            return msgspec.structs.replace(state, state="half_open", until=now + timedelta(seconds=PROBE_S))

        if not await self._states.update(self._provider, self._key, probe):
            return self.state.state not in NEEDS_PROBE
        self._probe_from = now
        log.info("provider_probe", provider=self._provider, key=self._key, reason=self.state.reason)
        return True

    async def release_probe(self) -> None:
        """Give up the probe if its call was not made after all: the next caller may have it."""
        if self._probe_from is None:
            return
        self._probe_from = None

        def for_the_next(state: KeyState) -> KeyState | None:
            over = msgspec.structs.replace(state, state="breaker_open", until=datetime.now(UTC))
            return over if state.state == "half_open" else None

        await self._states.update(self._provider, self._key, for_the_next)

    async def record_success(self, called_at: datetime) -> None:
        """Close the circuit, unless the call that succeeded began (`called_at`) before it opened."""
        self._failures = 0
        probe = self._ends_probe(called_at)

        def close(state: KeyState) -> KeyState | None:
            if state.state == "ok" or _is_stale(state, called_at, probe=probe):
                return None
            return msgspec.structs.replace(state, state="ok", until=None, reason=None, refusals=0, lanes=unexpired_lanes(state))

        if self.state.state != "ok" and await self._states.update(self._provider, self._key, close):
            log.info("provider_circuit_closed", provider=self._provider, key=self._key)

    async def record_failure(self, error: ProviderError, called_at: datetime) -> None:
        """Open the circuit if the retry policy of the error or the number of failures in a row says so.

        `called_at`: when the call began that failed as a whole.
        """
        policy = RETRY_POLICIES[error.verdict]
        if isinstance(error, QuotaSpentError) and error.retry_at:
            await self._quota_exhausted(error, error.retry_at)
        elif policy.opens is None:
            await self.record_success(called_at)
        elif policy.opens != "breaker_open":
            await self._open(error, policy.opens, policy.cool_down_s, called_at)
        elif error.retry_at:
            await self._open(error, "cooling_down", self._pause_s, called_at)
        else:
            self._failures += 1
            if self.probing or self._failures >= self._limit:
                await self._open(error, "breaker_open", self._pause_s, called_at)

    async def _quota_exhausted(self, error: QuotaSpentError, until: datetime) -> None:
        window = error.window
        # A sliding window makes room call by call: each replica waits for it by itself, and nobody is told every time.
        self._waits |= dict.fromkeys(window.lanes, until)
        if not window.by_date:
            self._notify()
            return

        def spent(state: KeyState) -> KeyState | None:
            if window.lane is None:
                return opened(state, "quota_spent", until, error.message)
            lanes = unexpired_lanes(state) | dict.fromkeys(window.lanes, until)
            known = all(already_blocks_until(state.lanes.get(lane), until) for lane in window.lanes)
            return None if known else msgspec.structs.replace(state, lanes=lanes)

        await self._apply(error, "quota_spent", spent)

    async def _open(self, error: ProviderError, name: State, first_s: float, called_at: datetime) -> None:
        """Open for `first_s`, twice as long each time it happens again, or as long as the provider says."""
        now = datetime.now(UTC)
        probe = self._ends_probe(called_at)
        policy = RETRY_POLICIES[error.verdict]

        def open_(state: KeyState) -> KeyState | None:
            if state.state != "ok" and _is_stale(state, called_at, probe=probe):
                return None  # a call from before it opened, or of a replica that had not heard of it: the same refusal
            open_s = min(first_s * 2 ** min(state.refusals, 10), max(MAX_COOL_DOWN_S, first_s))
            until = min(error.retry_at or now + timedelta(seconds=open_s), now + MAX_OPEN)
            return _slowed(opened(state, name, until, error.message), policy, state, now)

        await self._apply(error, name, open_)

    async def _apply(self, error: ProviderError, name: State, update: Update) -> None:
        if await self._states.update(self._provider, self._key, update):
            state = self.state
            ends = [state.until, *state.lanes.values()] if state.state == name else [*state.lanes.values()]
            until = max(end for end in ends if end)
            alert = log.error if name == "stopped" else log.warning
            alert(
                "provider_circuit_opened", provider=self._provider, key=self._key, state=name, until=until.isoformat(),
                reason=error.message, lanes=sorted(state.lanes), pace=round(state.pace_at(datetime.now(UTC)), 3),
            )  # fmt: skip
        self._notify()

    def _notify(self) -> None:
        for listener in self.on_open:
            listener()

    def _ends_probe(self, called_at: datetime) -> bool:
        """True if a call that began at `called_at` is the probe in flight; ends the probe if so."""
        probe = self._probe_from is not None and called_at >= self._probe_from
        self._probe_from = None if probe else self._probe_from
        return probe


class ProviderCircuit:
    """View of the circuits of a provider's API keys: a lane is blocked only while every key blocks it. No state of its own.

    `on_open`: called when the provider is blocked for so long that its tasks had better not wait.
    """

    def __init__(self, keys: Mapping[str, KeyCircuit]) -> None:
        self.keys = keys
        self.on_open: list[Callable[[], None]] = []
        for circuit in keys.values():
            circuit.on_open.append(self.notify_if_long)

    def retry_in_s(self, lane: Lane = "manual") -> float:
        """Seconds until the first key allows a call of this lane; 0: now."""
        return min(circuit.retry_in_s(lane) for circuit in self.keys.values())

    def blocked_state(self, lane: Lane = "manual") -> State | None:
        """State of the key that allows calls again first; None while a call of this lane is allowed."""
        if not self.retry_in_s(lane):
            return None
        states = [circuit.state for circuit in self.keys.values()]
        if any(state.state == "ok" for state in states):
            return "quota_spent"
        return min(states, key=lambda state: state.until or _NEVER).state

    def notify_if_long(self) -> None:
        """Call the listeners if a lane is blocked for longer than a task is sent back for."""
        if any(self.retry_in_s(lane) > MAX_NAK_S for lane in LANES):
            for listener in self.on_open:
                listener()


def _slowed(cooled: KeyState | None, policy: RetryPolicy, before: KeyState, now: datetime) -> KeyState | None:
    if cooled is None or not policy.slows_down:
        return cooled
    return msgspec.structs.replace(cooled, pace=max(SLOWEST_PACE, before.pace_at(now) / 2), slowed_at=now)


def _is_stale(state: KeyState, called_at: datetime, *, probe: bool) -> bool:
    """True if a call's result is outdated for this state: it began earlier, or it is not the probe that the open circuit awaits."""
    return not probe and state.until is not None and state.until > called_at
