"""When a provider rests as a whole: its tasks stay on the server, and others are told."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import nats.errors
import structlog
from nats.js.errors import APIError
from nats.js.kv import KeyValue

from contracts import subjects
from contracts.message import LANES, Lane
from services.fetcher.key_state import KeyState
from services.fetcher.reports import tell_state
from services.fetcher.rest import Rest
from services.fetcher.verdicts import MAX_NAK_S
from services.runtime.bus import Bus

_NEVER = datetime.max.replace(tzinfo=UTC)

log = structlog.get_logger()


class RestOfAll:
    """The rests of a provider's keys together: it rests as a whole when all of them do.

    `on_pause`: called when it begins to rest for so long that its tasks had better not wait.
    """

    def __init__(self, bus: Bus, bucket: KeyValue, provider: str, keys: Mapping[str, Rest]) -> None:
        self.keys = keys
        self._bus = bus
        self._bucket = bucket
        self._provider = provider
        self.on_pause: list[Callable[[], None]] = []
        for rest in keys.values():
            rest.whole = self

    def remaining_s(self, lane: Lane = "manual") -> float:
        """Seconds until the first key may make a call of this lane."""
        return min(rest.remaining_s(lane) for rest in self.keys.values())

    def rests(self, lane: Lane = "manual") -> str | None:
        """The state in which it is left alone now; None when a call of this lane may be made."""
        if not self.remaining_s(lane):
            return None
        best = self._best()
        return "quota_spent" if best.state == "ok" else best.state

    def say_if_long(self) -> None:
        """Tell those who listen of a rest that is too long to wait for."""
        if any(self.remaining_s(lane) > MAX_NAK_S for lane in LANES):
            for listener in self.on_pause:
                listener()

    async def pause(self) -> None:
        """Pause lanes for which every key rests on the server: so every replica rests, and no message goes back and forth."""
        now = datetime.now(UTC)
        for lane in LANES:
            ends = [rest.state.rests_until(lane, now) for rest in self.keys.values()]
            known = [end for end in ends if end]
            if len(known) == len(ends) and (until := min(known)) > now + timedelta(seconds=MAX_NAK_S):
                await self._pause(subjects.lane_consumer(self._provider, lane), until)
        self.say_if_long()

    async def tell(self) -> None:
        """Keep the state of the provider as a whole where others look: that of its best key."""
        best = self._best()
        details = {} if best.state == "ok" or best.until is None else {"until": best.until.isoformat(), "reason": best.reason}
        await tell_state(self._bucket, self._provider, state=best.state, refusals=best.refusals, **details)

    def _best(self) -> KeyState:
        states = [rest.state for rest in self.keys.values()]
        return next((each for each in states if each.state == "ok"), None) or min(states, key=lambda each: each.until or _NEVER)

    async def _pause(self, consumer: str, until: datetime) -> None:
        try:
            await self._bus.js.pause_consumer(subjects.TASKS, consumer, until.isoformat().replace("+00:00", "Z"))
        except (APIError, nats.errors.Error) as error:
            log.debug("not_paused", consumer=consumer, error=str(error))
