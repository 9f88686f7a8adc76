"""State of each API key, shared by all replicas: blocked until when and why, blocked lanes, learned pace; in the bucket `state`.

Each change is written by compare-and-set, so of several replicas that meet the same refusal one writes it. The others follow the
bucket.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
import nats.errors
import structlog
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from contracts import subjects
from contracts.message import Lane, UtcInstant
from services.runtime.bus import Bus
from services.runtime.faults import decode_or_skip
from services.runtime.follow import follow_bucket

RECOVERS_IN_S = 600.0
TRIES = 5
CLOCK_TOLERANCE = timedelta(seconds=5)

State = Literal["ok", "cooling_down", "quota_spent", "stopped", "breaker_open", "half_open"]
log = structlog.get_logger()


class KeyState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Circuit and pace of one API key. Not `ok`: no calls until `until`. `refusals`: in a row. `lanes`: blocked until when.

    `pace`: share of the full pace at `slowed_at`, from where it rises evenly, by the whole within RECOVERS_IN_S. `ceilings`: by
    window, what the provider says it allows as a share of what the settings say.
    """

    provider: str
    key: str
    state: State = "ok"
    until: UtcInstant | None = None
    reason: str | None = None
    refusals: int = 0
    pace: float = 1.0
    slowed_at: UtcInstant | None = None
    ceilings: dict[str, float] = {}
    lanes: dict[Lane, UtcInstant] = {}
    at: UtcInstant | None = None

    def pace_at(self, now: datetime) -> float:
        """Share of the full pace that is kept at this time."""
        risen = (now - self.slowed_at).total_seconds() / RECOVERS_IN_S if self.slowed_at else 1.0
        return min(1.0, self.pace + max(0.0, risen), *self.ceilings.values())

    def blocked_until(self, lane: Lane, now: datetime) -> datetime | None:
        """End of the block of this lane; None when calls are allowed."""
        ends = [self.until if self.state != "ok" else None, self.lanes.get(lane)]
        return max((end for end in ends if end and end > now), default=None)


Update = Callable[[KeyState], KeyState | None]
_decode = msgspec.json.Decoder(KeyState).decode


class KeyStateStore:
    """Store of the states of all API keys in the bucket `state`, cached in this process."""

    def __init__(self, bus: Bus, bucket: KeyValue) -> None:
        self._bus = bus
        self._bucket = bucket
        self._known: dict[str, KeyState] = {}

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Keep the states of all keys up to date while the block runs, which begins once they are read."""
        read = asyncio.Event()
        following = asyncio.create_task(self._follow(read))
        try:
            await read.wait()
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def get(self, provider: str, key: str) -> KeyState:
        """State of one key; `ok` if none is stored."""
        return self._known.get(subjects.key_state(provider, key)) or KeyState(provider=provider, key=key)

    async def update(self, provider: str, key: str, update: Update) -> bool:
        """Change a state for all replicas; whether we changed it. `update` gives None where nothing is to be changed.

        Without an answer from the server the change holds in this process.
        """
        name = subjects.key_state(provider, key)
        for _ in range(TRIES):
            try:
                revision = await self._read(name)
                if (wanted := update(self.get(provider, key))) is None:
                    return False
                wanted = msgspec.structs.replace(wanted, at=datetime.now(UTC))
                await self._bucket.update(name, msgspec.json.encode(wanted), last=revision)
            except KeyWrongLastSequenceError:
                continue
            except nats.errors.Error as error:
                log.debug("state_publish_failed", provider=provider, key=key, error=str(error))
                if (wanted := update(self.get(provider, key))) is None:
                    return False
            self._known[name] = wanted
            return True
        return False

    async def _read(self, name: str) -> int:
        try:
            entry = await self._bucket.get(name)
        except KeyNotFoundError as error:
            self._cache(name, b"")
            return int(error.entry.revision or 0) if error.entry else 0
        self._cache(name, entry.value or b"")
        return int(entry.revision or 0)

    async def _follow(self, read: asyncio.Event) -> None:
        try:
            async with aclosing(follow_bucket(self._bus.nc, subjects.STATE_BUCKET, subjects.key_state("*", "*"))) as changes:
                async for change in changes:
                    for entry in change.entries:
                        self._cache(entry.key, entry.value or b"")
                    if change.caught_up:
                        read.set()
        finally:
            read.set()

    def _cache(self, name: str, body: bytes) -> None:
        if not body:
            # Deleted, by somebody who knows better.
            self._known.pop(name, None)
            return
        # Where it is malformed, written by another version or by hand, the state known so far holds.
        if (state := decode_or_skip(name, body, _decode)) is not None:
            self._known[name] = state


def opened(state: KeyState, name: State, until: datetime, reason: str) -> KeyState | None:
    """State of a key whose calls are blocked until then; None if it says so already."""
    if state.state == name and already_blocks_until(state.until, until):
        return None
    return msgspec.structs.replace(
        state, state=name, until=until, reason=reason, refusals=state.refusals + 1, lanes=unexpired_lanes(state)
    )


def already_blocks_until(there: datetime | None, until: datetime) -> bool:
    """Whether an end that is known already is as late, give or take what replicas' clocks differ."""
    return there is not None and there >= until - CLOCK_TOLERANCE


def unexpired_lanes(state: KeyState) -> dict[Lane, datetime]:
    """Blocked lanes whose time is not over."""
    now = datetime.now(UTC)
    return {lane: end for lane, end in state.lanes.items() if end > now}
