"""The tasks of one provider, pulled lane by lane and grouped into calls."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from urllib.parse import quote

import msgspec
import nats.errors
from nats.aio.msg import Msg

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, Dataset, Lane, Timeframe, decode
from services.fetcher.reports import bury
from services.runtime.bus import Bus
from services.runtime.puller import Puller

LINGER_STEP_S = 0.03
# Servers refuse longer addresses, some from 2,048 characters on; paths and other parameters have the rest.
MOST_ADDRESS_CHARACTERS = 1500


@dataclass(frozen=True)
class Held:
    """A task in hand and the message it came in. `refused_by`: keys that have no room for its symbol this month."""

    msg: Msg
    task: FetchTask
    refused_by: frozenset[str] = frozenset()

    @property
    def wish(self) -> tuple[object, ...]:
        """What it wants, whatever the lane and the run."""
        return *self.call_key, self.task.symbol

    @property
    def call_key(self) -> tuple[Dataset, Timeframe | None, date | None, date | None]:
        """Tasks of one key can share a call."""
        return self.task.dataset, self.task.timeframe, self.task.start, self.task.end


class Lanes:
    """Manual before live before backfill. What does not fit the next call is held, kept alive, and never sent back while we run.

    `at_once`: so many tasks may be pulled together even if a call takes fewer.
    """

    def __init__(self, bus: Bus, provider: str, ack_wait_s: float, at_once: int = 1) -> None:
        self._bus = bus
        self._pullers = {lane: Puller(bus, subjects.TASKS, subjects.lane_consumer(provider, lane)) for lane in LANES}
        self._held: list[Held] = []
        self._under_way: set[tuple[object, ...]] = set()
        self._call_ended = asyncio.Event()
        self._ack_wait_s = ack_wait_s
        self._at_once = at_once

    async def next_call(
        self, limit: Callable[[Dataset], int], wait_s: float, lanes: Sequence[Lane] = LANES, linger_s: float = 0.0
    ) -> list[Held]:
        """The tasks of the next call, all of one key; the first of `lanes` with any decides. Empty after `wait_s`.

        `limit`: how many of a dataset may share a call. Unless somebody sits waiting, a call that is not full lingers for up to
        `linger_s` while more tasks keep coming.
        """
        if not self._held and not await self._first(wait_s, lanes):
            return []
        await self._top_up(limit, lanes)
        await self._linger(limit, lanes, linger_s)
        # A wish that a call is answering just now waits for that answer: it may do for it too.
        free = [held for held in self._held if held.wish not in self._under_way and held.task.lane in lanes]
        if not free:
            if self._held:
                await self._wait_for_a_call(wait_s)
            return []
        lead = _first_of(free)
        alike = [held for held in free if held.call_key == lead.call_key]
        wishes = _one_per_wish(sorted(alike, key=lambda held: LANES.index(held.task.lane)))
        chosen = _in_one_call(wishes, limit(lead.task.dataset))
        taken = {id(held) for held in chosen}
        self._held = [held for held in self._held if id(held) not in taken]
        self._under_way.update(held.wish for held in chosen)
        return chosen

    def call_ended(self, chosen: Sequence[Held]) -> None:
        """The tasks of a call are through: those that want the same may go on."""
        self._under_way.difference_update(held.wish for held in chosen)
        self._call_ended.set()

    def put_back(self, chosen: Sequence[Held]) -> None:
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

    def hold(self, held: Held) -> None:
        """Take over a task that another key could not serve."""
        self._held.append(held)

    async def give_back(self, lanes: Sequence[Lane] = LANES) -> None:
        """Return what is held of these lanes to the server at once."""
        back = [held for held in self._held if held.task.lane in lanes]
        self._held = [held for held in self._held if held.task.lane not in lanes]
        for held in back:
            with suppress(nats.errors.Error):
                await held.msg.nak()

    async def close(self) -> None:
        """Stop pulling and give everything back."""
        await self.give_back()
        for puller in self._pullers.values():
            await puller.close()

    async def _wait_for_a_call(self, wait_s: float) -> None:
        self._call_ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._call_ended.wait()

    async def _first(self, wait_s: float, lanes: Sequence[Lane]) -> bool:
        """Wait on these lanes at once. A cancelled pull loses nothing: what it would have brought is there for the next one."""
        pullers = [self._pullers[lane] for lane in lanes]
        if any(puller.waiting for puller in pullers):
            return True
        pulls = [asyncio.create_task(puller.wait(wait_s)) for puller in pullers]
        try:
            await asyncio.wait(pulls, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pull in pulls:
                pull.cancel()
            await asyncio.gather(*pulls, return_exceptions=True)
        return any(puller.waiting for puller in pullers)

    async def _top_up(self, limit: Callable[[Dataset], int], lanes: Sequence[Lane]) -> None:
        if not self._held and (puller := next((self._pullers[lane] for lane in lanes if self._pullers[lane].waiting), None)):
            await self._take(await puller.pull(self._at_once, 0))
        # What is in hand no other replica can take: no more of it than a call or two of its kind.
        size = limit(_first_of(self._held).task.dataset) if self._held else 1
        most = max(size, self._at_once)
        for lane in lanes:
            room = most - len(self._held) if len(self._held) < size else 0
            # A lane above may always add, up to twice a call; a lane below only fills what is missing.
            room = max(room, 1 if lane == LANES[0] else 0)
            room = min(room, 2 * most - len(self._held))
            if room > 0:
                await self._take(await self._pullers[lane].pull(room, 0.5, no_wait=True))

    async def _linger(self, limit: Callable[[Dataset], int], lanes: Sequence[Lane], linger_s: float) -> None:
        clock = asyncio.get_running_loop().time
        until, before = clock() + linger_s, 0
        size = limit(_first_of(self._held).task.dataset) if self._held else 0
        while before < len(self._held) < size and clock() < until and not any(held.task.lane == "manual" for held in self._held):
            before = len(self._held)
            await asyncio.sleep(LINGER_STEP_S)
            await self._top_up(limit, lanes)

    async def _take(self, messages: Sequence[Msg]) -> None:
        malformed = []
        for msg in messages:
            try:
                self._held.append(Held(msg, decode(msg.data, FetchTask)))
            except (msgspec.MsgspecError, ValueError) as error:
                malformed.append((msg, error))
        # All are in our books before the first wait: being cancelled there must not forget one.
        for msg, fault in malformed:
            await bury(self._bus, msg, "malformed", f"{msg.subject}: {fault}")
            await msg.ack()


def _first_of(tasks: Sequence[Held]) -> Held:
    return min(tasks, key=lambda held: LANES.index(held.task.lane))


def _one_per_wish(tasks: Sequence[Held]) -> list[Held]:
    """A vendor is not asked twice for a symbol in one call; the second stays held and finds the first one's answer."""
    return list({held.wish: held for held in reversed(tasks)}.values())[::-1]


def _in_one_call(tasks: Sequence[Held], most: int) -> list[Held]:
    """As many as may share a call, and as fit into an address: symbols stand there percent-encoded, with a separator each."""
    fitting: list[Held] = []
    size = 0
    for held in tasks[:most]:
        size += len(quote(held.task.symbol, safe="")) + 3
        if fitting and size > MOST_ADDRESS_CHARACTERS:
            break
        fitting.append(held)
    return fitting


async def send_back(tasks: Sequence[Held], delay_s: float | None) -> None:
    """Return tasks that are not acknowledged to the server, at once or after a delay."""
    for held in tasks:
        if not held.msg.is_acked:
            with suppress(nats.errors.Error):
                await held.msg.nak(delay=delay_s)
