"""When a provider key rests: cool-downs after refusals, spent windows, the breaker after failures; shared by all replicas."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError
from nats.js.kv import KeyValue

from contracts import subjects
from contracts.message import LANES, Lane
from services.fetcher.key_state import Edit, KeyState, KeyStates, State, resting, says, still_resting
from services.fetcher.ledger import QuotaSpentError
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.reports import tell_state
from services.fetcher.verdicts import CONSEQUENCES, MAX_NAK_S
from services.runtime.bus import Bus

LONGEST_COOL_DOWN_S = 900.0
# However late the provider says to come back: a call a day costs little, and a wrong date must not end the work.
LONGEST_REST = timedelta(days=1)
BREAKER_PROBE_S = 30.0
SLOWEST_PACE = 1 / 16
_NEVER = datetime.max.replace(tzinfo=UTC)

log = structlog.get_logger()


class Rest:
    """Until when one key is left alone, and why."""

    def __init__(self, states: KeyStates, provider: str, key: str, breaker_failures: int) -> None:
        self._states = states
        self._provider = provider
        self._key = key
        self._limit = breaker_failures
        self._failures = 0
        self._waits: dict[Lane, datetime] = {}
        self.whole: RestOfAll | None = None

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

    async def answered(self, called_at: datetime) -> None:
        """A call that began at `called_at` brought data: whatever was wrong before it is over."""
        self._failures = 0

        def well(state: KeyState) -> KeyState | None:
            if state.state == "ok" or (state.until and state.until > called_at):
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
            await self._cool_down(error, rule.cool_down_s or BREAKER_PROBE_S, called_at)
        elif rule.breaker:
            self._failures += 1
            if self._failures >= self._limit:
                until = datetime.now(UTC) + timedelta(seconds=BREAKER_PROBE_S)
                await self._begin(error, "breaker_open", lambda state: resting(state, "breaker_open", until, error.message))
        else:
            await self.answered(called_at)

    async def _spent(self, error: QuotaSpentError, until: datetime) -> None:
        window = error.window
        # A sliding window makes room call by call: each replica waits for it by itself, and nobody is told every time.
        self._waits |= dict.fromkeys(window.lanes, until)
        if not window.by_date:
            return

        def spent(state: KeyState) -> KeyState | None:
            if window.lane is None:
                return resting(state, "quota_spent", until, error.message)
            lanes = still_resting(state) | dict.fromkeys(window.lanes, until)
            known = all(says(state.lanes.get(lane), until) for lane in window.lanes)
            return None if known else msgspec.structs.replace(state, lanes=lanes)

        await self._begin(error, "quota_spent", spent)

    async def _cool_down(self, error: ProviderError, first_s: float, called_at: datetime) -> None:
        name: State = "stopped" if error.verdict is Verdict.UNAUTHORIZED else "cooling_down"
        now = datetime.now(UTC)

        def cooler(state: KeyState) -> KeyState | None:
            if state.state != "ok" and state.until and state.until > called_at:
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

    async def _tell_all(self) -> None:
        if self.whole:
            await self.whole.tell()


class RestOfAll:
    """The rests of a provider's keys together: it rests as a whole when all of them do."""

    def __init__(self, bus: Bus, bucket: KeyValue, provider: str, keys: Mapping[str, Rest]) -> None:
        self.keys = keys
        self._bus = bus
        self._bucket = bucket
        self._provider = provider
        for rest in keys.values():
            rest.whole = self

    def remaining_s(self, lane: Lane = "manual") -> float:
        """Seconds until the first key may make a call of this lane."""
        return min(rest.remaining_s(lane) for rest in self.keys.values())

    async def pause(self) -> None:
        """Pause lanes for which every key rests on the server: so every replica rests, and no message goes back and forth."""
        now = datetime.now(UTC)
        for lane in LANES:
            ends = [rest.state.rests_until(lane, now) for rest in self.keys.values()]
            known = [end for end in ends if end]
            if len(known) == len(ends) and (until := min(known)) > now + timedelta(seconds=MAX_NAK_S):
                await self._pause(subjects.lane_consumer(self._provider, lane), until)

    async def tell(self) -> None:
        """Keep the state of the provider as a whole where others look: that of its best key."""
        states = [rest.state for rest in self.keys.values()]
        best = next((each for each in states if each.state == "ok"), None) or min(states, key=lambda each: each.until or _NEVER)
        details = {} if best.state == "ok" or best.until is None else {"until": best.until.isoformat(), "reason": best.reason}
        await tell_state(self._bucket, self._provider, state=best.state, **details)

    async def _pause(self, consumer: str, until: datetime) -> None:
        try:
            await self._bus.js.pause_consumer(subjects.TASKS, consumer, until.isoformat().replace("+00:00", "Z"))
        except (APIError, nats.errors.Error) as error:
            log.debug("not_paused", consumer=consumer, error=str(error))
