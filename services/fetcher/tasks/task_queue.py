"""Queue of the tasks of one provider: pulled by priority of their lanes, grouped into batches that share a call."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from urllib.parse import quote

import nats.errors
from nats.aio.msg import Msg

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, Dataset, Lane, Timeframe, decode
from services.runtime.bus import Bus
from services.runtime.consumer import FailurePolicy
from services.runtime.puller import Puller, nak_unacked

LINGER_STEP_S = 0.03
# Servers refuse longer addresses, some from 2,048 characters on; paths and other parameters have the rest.
MOST_ADDRESS_CHARACTERS = 1500


@dataclass(frozen=True)
class PendingTask:
    """A task in hand and the message it came in.

    `refused_by`: keys that have no room for its symbol this month. `alone`: it failed before, so it shares no call with others.
    """

    msg: Msg
    task: FetchTask
    refused_by: frozenset[str] = frozenset()
    alone: bool = False

    @property
    def dedup_key(self) -> tuple[object, ...]:
        """Its series and range, whatever the lane and the run."""
        return *self.batch_key, self.task.symbol

    @property
    def batch_key(self) -> tuple[Dataset, Timeframe | None, date | None, date | None]:
        """Tasks of one key can share a call."""
        return self.task.dataset, self.task.timeframe, self.task.start, self.task.end


class TaskQueue:
    """Priority queue over the three lane consumers of a provider: manual before live before backfill.

    What does not fit the next call is held, kept alive, and never sent back while we run. `at_once`: so many tasks may be pulled
    together even if a call takes fewer.
    """

    def __init__(self, bus: Bus, provider: str, failures: FailurePolicy, ack_wait_s: float, at_once: int = 1) -> None:
        self._failures = failures
        self._pullers = {lane: Puller(bus, subjects.TASKS, subjects.lane_consumer(provider, lane)) for lane in LANES}
        self._held: list[PendingTask] = []
        self._in_flight: set[tuple[object, ...]] = set()
        self._call_ended = asyncio.Event()
        self._ack_wait_s = ack_wait_s
        self._at_once = at_once

    async def next_call(
        self, limit: Callable[[Dataset], int], wait_s: float, allowed: Callable[[], Sequence[Lane]], linger_s: float = 0.0
    ) -> list[PendingTask]:
        """The tasks of the next call, all of one key; the first allowed lane with any decides. Empty after `wait_s`.

        `allowed`: lanes whose calls are allowed, asked for again after each wait: one that is blocked meanwhile brings no more
        tasks that would only go back. `limit`: how many of a dataset may share a call. Unless somebody sits waiting, a call
        that is not full lingers for up to `linger_s` while more tasks keep coming.
        """
        if not self._held and not await self._wait_any(wait_s, allowed()):
            return []
        await self._prefetch(limit, allowed)
        await self._batch_wait(limit, allowed, linger_s)
        if not (lanes := allowed()):
            return []
        # A task whose series a call is fetching just now waits for that answer: it may do for it too.
        free = [held for held in self._held if held.dedup_key not in self._in_flight and held.task.lane in lanes]
        if not free:
            if self._held:
                await self._wait_for_a_call(wait_s)
            return []
        lead = _first_of(free)
        alike = [lead] if lead.alone else [held for held in free if held.batch_key == lead.batch_key and not held.alone]
        wishes = _deduplicated(sorted(alike, key=lambda held: LANES.index(held.task.lane)))
        chosen = _fit_batch(wishes, limit(lead.task.dataset))
        taken = {id(held) for held in chosen}
        self._held = [held for held in self._held if id(held) not in taken]
        self._in_flight.update(held.dedup_key for held in chosen)
        return chosen

    def call_ended(self, chosen: Sequence[PendingTask]) -> None:
        """The tasks of a call are through: those that want the same may go on."""
        self._in_flight.difference_update(held.dedup_key for held in chosen)
        self._call_ended.set()

    def requeue(self, chosen: Sequence[PendingTask]) -> None:
        """Hold the tasks of a call that cannot be made now."""
        self._held[:0] = chosen
        self.call_ended(chosen)

    async def keep_alive(self) -> None:
        """Tell the server, for ever, that what is held is not lost."""
        while True:
            await asyncio.sleep(self._ack_wait_s / 3)
            for held in list(self._held):
                with suppress(nats.errors.Error):
                    await held.msg.in_progress()

    def enqueue(self, held: PendingTask) -> None:
        """Take over a task that another key could not serve."""
        self._held.append(held)

    async def nak_all(self, lanes: Sequence[Lane] = LANES) -> None:
        """Return what is held of these lanes, and what a pull brought meanwhile, to the server at once."""
        for puller in (self._pullers[lane] for lane in lanes):
            if puller.waiting:
                await self._accept(await puller.pull(len(puller.waiting), 0))
        back = [held for held in self._held if held.task.lane in lanes]
        self._held = [held for held in self._held if held.task.lane not in lanes]
        await nak_unacked(held.msg for held in back)

    async def close(self) -> None:
        """Stop pulling and give everything back."""
        await self.nak_all()
        for puller in self._pullers.values():
            await puller.close()

    async def _wait_for_a_call(self, wait_s: float) -> None:
        self._call_ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._call_ended.wait()

    async def _wait_any(self, wait_s: float, lanes: Sequence[Lane]) -> bool:
        """Wait on these lanes at once. A cancelled pull loses nothing: what it would have brought is there for the next one."""
        pullers = [self._pullers[lane] for lane in lanes]
        if not pullers or any(puller.waiting for puller in pullers):
            return bool(pullers)
        pulls = [asyncio.create_task(puller.wait(wait_s)) for puller in pullers]
        try:
            await asyncio.wait(pulls, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pull in pulls:
                pull.cancel()
            await asyncio.gather(*pulls, return_exceptions=True)
        return any(puller.waiting for puller in pullers)

    async def _prefetch(self, limit: Callable[[Dataset], int], allowed: Callable[[], Sequence[Lane]]) -> None:
        lanes = allowed()
        if not self._held and (puller := next((self._pullers[lane] for lane in lanes if self._pullers[lane].waiting), None)):
            await self._accept(await puller.pull(self._at_once, 0))
        # What is in hand no other replica can take: no more of it than a call or two of its kind.
        size = limit(_first_of(self._held).task.dataset) if self._held else 1
        most = max(size, self._at_once)
        for lane in lanes:
            room = most - len(self._held) if len(self._held) < size else 0
            # A lane above may always add, up to twice a call; a lane below only fills what is missing.
            room = max(room, 1 if lane == LANES[0] else 0)
            room = min(room, 2 * most - len(self._held))
            if room > 0:
                await self._accept(await self._pullers[lane].pull(room, 0.5, no_wait=True))

    async def _batch_wait(self, limit: Callable[[Dataset], int], allowed: Callable[[], Sequence[Lane]], linger_s: float) -> None:
        clock = asyncio.get_running_loop().time
        until, before = clock() + linger_s, 0
        size = limit(_first_of(self._held).task.dataset) if self._held else 0
        while before < len(self._held) < size and clock() < until and not any(held.task.lane == "manual" for held in self._held):
            before = len(self._held)
            await asyncio.sleep(LINGER_STEP_S)
            await self._prefetch(limit, allowed)

    async def _accept(self, messages: Sequence[Msg]) -> None:
        malformed: list[tuple[Msg, Exception]] = []
        for msg in messages:
            try:
                self._held.append(PendingTask(msg, decode(msg.data, FetchTask), alone=self._failures.is_suspect(msg)))
            except Exception as error:  # RecursionError, OverflowError: whatever bytes can cause
                malformed.append((msg, error))
        # All are in our books before the first wait: being cancelled there must not forget one.
        for msg, fault in malformed:
            await self._failures.malformed(msg, fault)


def _first_of(tasks: Sequence[PendingTask]) -> PendingTask:
    return min(tasks, key=lambda held: LANES.index(held.task.lane))


def _deduplicated(tasks: Sequence[PendingTask]) -> list[PendingTask]:
    """A vendor is not asked twice for a symbol in one call; the second stays held and finds the first one's answer."""
    return list({held.dedup_key: held for held in reversed(tasks)}.values())[::-1]


def _fit_batch(tasks: Sequence[PendingTask], most: int) -> list[PendingTask]:
    """As many as may share a call, and as fit into an address: symbols stand there percent-encoded, with a separator each."""
    fitting: list[PendingTask] = []
    size = 0
    for held in tasks[:most]:
        size += len(quote(held.task.symbol, safe="")) + 3
        if fitting and size > MOST_ADDRESS_CHARACTERS:
            break
        fitting.append(held)
    return fitting


async def nak(tasks: Sequence[PendingTask], delay_s: float | None) -> None:
    """Return tasks that are not acknowledged to the server, at once or after a delay."""
    await nak_unacked([held.msg for held in tasks], delay_s)
