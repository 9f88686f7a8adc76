"""Tasks that were refused because two of the same were there already: looked after until a call has served them.

The one in flight may have started before this task was wanted, and the one waiting may then end without a call of its own. So a
refused task is offered again until an answer is new enough or its time is up. The newest of a subject is enough for all.
"""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime

import nats.errors
from nats.js.errors import APIError

from contracts import subjects
from contracts.fetch_task import FetchTask
from services.fetcher.served import last_served
from services.runtime.bus import Bus

LOOK_EVERY_S = 2.0


class Twins:
    """The refused tasks of this planner, newest per subject."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tasks: dict[str, FetchTask] = {}

    def add(self, task: FetchTask) -> None:
        """Look after a task that was refused as a twin."""
        subject = subjects.fetch_task(task)
        known = self._tasks.get(subject)
        if known is None or known.wanted_at < task.wanted_at:
            self._tasks[subject] = task

    async def run(self) -> None:
        """Look after them for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Let go of what is served or expired; offer the rest again."""
        now = datetime.now(UTC)
        series = defaultdict(list)
        for subject, task in list(self._tasks.items()):
            if task.expires_at <= now:
                del self._tasks[subject]
            else:
                series[task.dataset, task.timeframe].append((subject, task))
        for (dataset, timeframe), tasks in series.items():
            served = await last_served(self._bus, dataset, timeframe, [task.symbol for _, task in tasks])
            for subject, task in tasks:
                event = served.get(task.symbol)
                if event and event.serves(task):
                    self._tasks.pop(subject, None)
                else:
                    await self._offer(subject, task)

    async def _offer(self, subject: str, task: FetchTask) -> None:
        try:
            await self._bus.publish(subject, task, message_id=f"{task.run_id}:{subject}")
        except (APIError, nats.errors.Error):
            return  # still two of them, or the server is away: next time
        self._tasks.pop(subject, None)
