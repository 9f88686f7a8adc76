"""Coalesced tasks: refused by TASKS because two of their subject are there, they wait on WAITING until an event serves them.

The one in flight may have begun before such a task was wanted, and the one behind it may end without a call of its own. So each
waits for an event whose call began late enough, or for room on TASKS, or for its deadline, when the cacher ends its run. All of
it is on the stream: nothing is lost with a process.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from nats.aio.msg import Msg
from nats.js.errors import APIError
from typing_extensions import override

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import Dataset, Timeframe, decode
from services.fetcher.last_event import LastEvent, last_events, satisfying_events
from services.fetcher.tasks.results import report_result
from services.runtime.bus import WINDOW_FULL, Bus
from services.runtime.consumer import Batch, Handler
from services.runtime.puller import nak_unacked

BATCH_TASKS = 256
# A look costs a read or two: soon after the first, while somebody may sit waiting, and then less and less often.
LOOK_AGAIN_S = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0)
SOMEBODY_WAITS_S = 0.8

Delivery = tuple[Msg, FetchTask]

log = structlog.get_logger()


class StreamFullError(Exception):
    """The stream takes no more for now; whoever publishes there waits."""


async def publish_task(bus: Bus, task: FetchTask) -> bool:
    """Publish a task to TASKS, or to WAITING while two of its subject are there; False for the latter.

    Raises:
        StreamFullError: the stream has no room at all.
        nats.errors.Error: no answer; it may or may not be stored.
    """
    subject = subjects.fetch_task(task)
    identity = f"{task.run_id}:{subject}"
    try:
        await bus.publish(subject, task, message_id=identity)
        return True
    except APIError as error:
        if WINDOW_FULL not in (error.description or ""):
            raise StreamFullError(f"TASKS refuses: {error.description}") from error
    try:
        await bus.publish(subjects.waiting_task(task), task, message_id=identity)
    except APIError as error:
        raise StreamFullError(f"WAITING refuses: {error.description}") from error
    return False


class CoalescedTasks(Handler[FetchTask]):
    """Handler of WAITING: ends, publishes or keeps the tasks there."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @override
    def decode(self, msg: Msg) -> FetchTask:
        return decode(msg.data, FetchTask)

    @override
    async def handle(self, batch: Batch[FetchTask]) -> None:
        alike: dict[str, list[Delivery]] = defaultdict(list)
        now = datetime.now(UTC)
        for msg, task in batch.deliveries:
            if task.expires_at <= now:
                await msg.ack()  # the cacher ends its run at the same deadline
            else:
                alike[subjects.fetch_task(task)].append((msg, task))
        events = await self._newest_events([deliveries[0][1] for deliveries in alike.values()])
        await asyncio.gather(*(self._check(subject, some, events.get(subject)) for subject, some in alike.items()))

    async def _newest_events(self, tasks: Sequence[FetchTask]) -> dict[str, LastEvent]:
        """The newest event of each task's series, by the task's subject."""
        by_series: dict[tuple[Dataset, Timeframe | None], list[FetchTask]] = defaultdict(list)
        for task in tasks:
            by_series[task.dataset, task.timeframe].append(task)
        found: dict[str, LastEvent] = {}
        for (dataset, timeframe), some in by_series.items():
            events = await last_events(self._bus, dataset, timeframe, list({task.symbol for task in some}))
            found |= {subjects.fetch_task(task): events[task.symbol] for task in some if task.symbol in events}
        return found

    async def _check(self, subject: str, deliveries: Sequence[Delivery], newest: LastEvent | None) -> None:
        """End those of one subject that an event serves. Of the others the newest is enough on TASKS: its call serves them all."""
        waiting = []
        for msg, task in deliveries:
            if event := await self._serving(task, newest):
                await report_result(self._bus, task, "merged", reason="served", called_at=event.fetched_at)
                await msg.ack()
            else:
                waiting.append((msg, task))
        if waiting and await self._published(subject, max(waiting, key=_wanted_at)):
            log.debug("coalesced_task_published", subject=subject)
        for msg, task in waiting:
            await nak_unacked([msg], _next_look_s(msg, task))

    async def _serving(self, task: FetchTask, newest: LastEvent | None) -> LastEvent | None:
        if newest is None or newest.fetched_at < task.wanted_at:
            return None
        # The newest may answer another range or provider, and hide one that answers this.
        return newest if newest.satisfies(task) else (await satisfying_events(self._bus, [task])).get(task.symbol)

    async def _published(self, subject: str, delivery: Delivery) -> bool:
        msg, task = delivery
        try:
            await self._bus.publish(subject, task, message_id=f"{task.run_id}:{subject}")
        except APIError:
            return False  # still two of them, or the stream is full: at the next look
        await msg.ack()
        return True


def _wanted_at(delivery: Delivery) -> datetime:
    return delivery[1].wanted_at


def _next_look_s(msg: Msg, task: FetchTask) -> float:
    delay_s = LOOK_AGAIN_S[min(msg.metadata.num_delivered, len(LOOK_AGAIN_S)) - 1]
    return min(delay_s, SOMEBODY_WAITS_S) if task.lane == "manual" else delay_s
