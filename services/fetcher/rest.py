"""When a provider key rests: cool-downs after refusals, spent windows, the breaker after failures; shared by all replicas.

After a pause the first of all replicas to write `half_open` makes a single call. What becomes of that trial opens the way for
all, or begins a longer pause.
"""

from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec
import structlog

from contracts.message import LANES, Lane
from services.fetcher.key_state import Edit, KeyState, KeyStates, State, resting, says, still_resting
from services.fetcher.ledger import QuotaSpentError
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.verdicts import CONSEQUENCES

LONGEST_COOL_DOWN_S = 900.0
# However late the provider says to come back: a call a day costs little, and a wrong date must not end the work.
LONGEST_REST = timedelta(days=1)
TRIAL_S = 60.0
SLOWEST_PACE = 1 / 16
# A spent quota ends by the clock; after these nobody knows whether the provider is well again.
NEED_TRIAL = frozenset[State]({"cooling_down", "stopped", "breaker_open", "half_open"})

log = structlog.get_logger()


class Whole(Protocol):
    """The rests of all keys of a provider, who are told when that of one changes."""

    async def pause(self) -> None: ...
    async def tell(self) -> None: ...
    def say_if_long(self) -> None: ...


class Rest:
    """Until when one key is left alone, and why."""

    def __init__(self, states: KeyStates, provider: str, key: str, breaker_failures: int, breaker_pause_s: float) -> None:
        self._states = states
        self._provider = provider
        self._key = key
        self._limit = breaker_failures
        self._pause_s = breaker_pause_s
        self._failures = 0
        self._trial_from: datetime | None = None
        self._waits: dict[Lane, datetime] = {}
        self.whole: Whole | None = None

    @property
    def state(self) -> KeyState:
        """What all replicas know of this key."""
        return self._states.of(self._provider, self._key)

    def remaining_s(self, lane: Lane = "manual") -> float:
        """Seconds until the next call of this lane may be made with this key."""
        now = datetime.now(UTC)
        ends = [end for end in (self.state.rests_until(lane, now), self._waits.get(lane)) if end]
        return max(0.0, (max(ends) - now).total_seconds()) if ends else 0.0

    def open_lanes(self) -> list[Lane]:
        """The lanes whose calls may be made now."""
        return [lane for lane in LANES if not self.remaining_s(lane)]

    async def begins(self) -> None:
        """Try again what new settings may have changed: a key that was refused, a limit that was spent."""

        def afresh(state: KeyState) -> KeyState | None:
            if state.state not in ("stopped", "quota_spent") and not state.lanes:
                return None
            stays = state.state not in ("stopped", "quota_spent")
            well = state if stays else msgspec.structs.replace(state, state="ok", until=None, reason=None, refusals=0)
            return msgspec.structs.replace(well, lanes={})

        if await self._states.change(self._provider, self._key, afresh):
            await self._tell_all()

    @property
    def on_trial(self) -> bool:
        """Whether a trial call of this process is under way."""
        return self._trial_from is not None

    async def admits(self) -> bool:
        """Whether a call may leave now that no rest forbids it. After a pause only one caller of all replicas gets a yes."""
        if self.state.state not in NEED_TRIAL:
            return True
        now = datetime.now(UTC)

        def trial(state: KeyState) -> KeyState | None:
            if state.state not in NEED_TRIAL or (state.until and state.until > now):
                return None
            return msgspec.structs.replace(state, state="half_open", until=now + timedelta(seconds=TRIAL_S))

        if not await self._states.change(self._provider, self._key, trial):
            return self.state.state not in NEED_TRIAL
        self._trial_from = now
        log.info("provider_on_trial", provider=self._provider, key=self._key, reason=self.state.reason)
        await self._tell_all()
        return True

    async def trial_over(self) -> None:
        """The caller is through. If its call was not made after all, the trial is for whoever is next."""
        if self._trial_from is None:
            return
        self._trial_from = None

        def for_the_next(state: KeyState) -> KeyState | None:
            over = msgspec.structs.replace(state, state="breaker_open", until=datetime.now(UTC))
            return over if state.state == "half_open" else None

        await self._states.change(self._provider, self._key, for_the_next)

    async def answered(self, called_at: datetime) -> None:
        """A call that began at `called_at` brought data: whatever was wrong before it is over."""
        self._failures = 0
        trial = self._ends_trial(called_at)

        def well(state: KeyState) -> KeyState | None:
            if state.state == "ok" or _is_later(state, called_at, trial=trial):
                return None
            return msgspec.structs.replace(state, state="ok", until=None, reason=None, refusals=0, lanes=still_resting(state))

        if self.state.state != "ok" and await self._states.change(self._provider, self._key, well):
            log.info("provider_works_again", provider=self._provider, key=self._key)
            await self._tell_all()

    async def failed(self, error: ProviderError, called_at: datetime) -> None:
        """A call that began at `called_at` failed as a whole: rest if its verdict or the breaker says so."""
        rule = CONSEQUENCES[error.verdict]
        if isinstance(error, QuotaSpentError) and error.retry_at:
            await self._spent(error, error.retry_at)
        elif rule.cool_down_s or (rule.breaker and error.retry_at):
            name: State = "stopped" if error.verdict is Verdict.UNAUTHORIZED else "cooling_down"
            await self._pause(error, name, rule.cool_down_s or self._pause_s, called_at)
        elif rule.breaker:
            self._failures += 1
            if self.on_trial or self._failures >= self._limit:
                await self._pause(error, "breaker_open", self._pause_s, called_at)
        else:
            await self.answered(called_at)

    async def _spent(self, error: QuotaSpentError, until: datetime) -> None:
        window = error.window
        # A sliding window makes room call by call: each replica waits for it by itself, and nobody is told every time.
        self._waits |= dict.fromkeys(window.lanes, until)
        if not window.by_date:
            if self.whole:
                self.whole.say_if_long()
            return

        def spent(state: KeyState) -> KeyState | None:
            if window.lane is None:
                return resting(state, "quota_spent", until, error.message)
            lanes = still_resting(state) | dict.fromkeys(window.lanes, until)
            known = all(says(state.lanes.get(lane), until) for lane in window.lanes)
            return None if known else msgspec.structs.replace(state, lanes=lanes)

        await self._begin(error, "quota_spent", spent)

    async def _pause(self, error: ProviderError, name: State, first_s: float, called_at: datetime) -> None:
        """Rest for `first_s`, twice as long each time it happens again, or as long as the provider says."""
        now = datetime.now(UTC)
        trial = self._ends_trial(called_at)

        def cooler(state: KeyState) -> KeyState | None:
            if state.state != "ok" and _is_later(state, called_at, trial=trial):
                return None  # a call from before the rest, or of a replica that had not heard of it: the same refusal
            rest_s = min(first_s * 2 ** min(state.refusals, 10), max(LONGEST_COOL_DOWN_S, first_s))
            until = min(error.retry_at or now + timedelta(seconds=rest_s), now + LONGEST_REST)
            cooled = resting(state, name, until, error.message)
            if cooled is None or error.verdict is not Verdict.RATE_LIMITED:
                return cooled
            pace = max(SLOWEST_PACE, state.pace_at(now) / 2)
            return msgspec.structs.replace(cooled, pace=pace, slowed_at=now)

        await self._begin(error, name, cooler)

    async def _begin(self, error: ProviderError, name: State, edit: Edit) -> None:
        if await self._states.change(self._provider, self._key, edit):
            state = self.state
            ends = [state.until, *state.lanes.values()] if state.state == name else [*state.lanes.values()]
            until = max(end for end in ends if end)
            alert = log.error if error.verdict is Verdict.UNAUTHORIZED else log.warning
            alert(
                "provider_rests", provider=self._provider, key=self._key, state=name, until=until.isoformat(), reason=error.message,
                lanes=sorted(state.lanes), pace=round(state.pace_at(datetime.now(UTC)), 3),
            )  # fmt: skip
            await self._tell_all()
        if self.whole:
            await self.whole.pause()

    def _ends_trial(self, called_at: datetime) -> bool:
        """Whether a call that began then is the trial; if so, it is over."""
        trial = self._trial_from is not None and called_at >= self._trial_from
        self._trial_from = None if trial else self._trial_from
        return trial

    async def _tell_all(self) -> None:
        if self.whole:
            await self.whole.tell()


def _is_later(state: KeyState, called_at: datetime, *, trial: bool) -> bool:
    """Whether a call from then knows nothing of this state: it began earlier, or it is not the trial that is waited for."""
    return not trial and state.until is not None and state.until > called_at
