"""The plan: a request becomes one task per symbol, or a reason why not."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import structlog
from nats.aio.msg import Msg
from typing_extensions import override

from contracts import subjects
from contracts.fetch_task import FetchTask
from services.fetcher.planning.freshness import needless
from services.fetcher.planning.plan import Plan, by_validity, share_out, understand
from services.fetcher.planning.universe import Universe, UniverseRefusedError, UniverseUnavailableError
from services.fetcher.routing.router import Chooser, NoProviderError
from services.fetcher.tasks.coalesced import StreamFullError, publish_task
from services.fetcher.tasks.results import publish_result
from services.runtime.bus import Bus
from services.runtime.consumer import Batch, Handler
from services.runtime.dead_letters import BAD_REQUEST, INTERNAL_ERROR, DeadLetters

PUBLISHES_AT_ONCE = 128
# A request waits for these to pass.
WAITS = (UniverseUnavailableError, StreamFullError)

log = structlog.get_logger()


class Planner(Handler[Plan]):
    """Handler of REFRESH: publishes the tasks of each request. One that cannot be planned now is redelivered."""

    def __init__(self, bus: Bus, chooser: Chooser, universe: Universe, dead_letters: DeadLetters, settings_expiry_s: float) -> None:
        self._bus = bus
        self._chooser = chooser
        self._universe = universe
        self._dead_letters = dead_letters
        self._expiry = timedelta(seconds=settings_expiry_s)
        self._gate = asyncio.Semaphore(PUBLISHES_AT_ONCE)

    @override
    def decode(self, msg: Msg) -> Plan:
        return understand(msg, self._expiry)

    @override
    async def handle(self, batch: Batch[Plan]) -> None:
        """Plan requests. What was published already when one is planned again is found by its message id."""
        for msg, plan in batch.deliveries:
            await self._plan_or_refuse(msg, plan)

    @override
    async def give_up(self, event: Plan, why: str) -> None:
        await self._refuse(event, event.request.symbols, INTERNAL_ERROR, why)

    async def _plan_or_refuse(self, msg: Msg, plan: Plan) -> None:
        asked: Sequence[str] = plan.request.symbols
        try:
            asked = await self._universe.symbols(plan.request)
            await self._plan(msg, plan, asked)
        except (NoProviderError, UniverseRefusedError) as error:
            await self._dead_letters.publish(msg, BAD_REQUEST, str(error))
            await self._refuse(plan, asked, BAD_REQUEST, str(error))

    async def _refuse(self, plan: Plan, asked: Sequence[str], reason: str, why: str) -> None:
        await self._announce(plan, asked, why)
        for symbol in asked:
            await publish_result(self._bus, plan.result(symbol[:64], "failed", reason, message=why))

    async def _plan(self, msg: Msg, plan: Plan, asked: Sequence[str]) -> None:
        good, bad = by_validity(asked)
        if not good and not bad:
            log.info("nothing_to_plan", request_id=plan.request_id, universe=plan.request.universe)
        probe = plan.task("", good[0] if good else "X")
        choice = await self._chooser.choice(probe, plan.request.provider)
        unasked = await needless(self._bus, plan, probe, good, choice)
        await self._announce(plan, asked)
        for symbol, why in bad.items():
            await self._dead_letters.publish(msg, BAD_REQUEST, f"symbols: {why}")
            await publish_result(self._bus, plan.result(symbol[:64], "failed", "bad_request", message=why))
        for symbol, why in unasked.items():
            await publish_result(self._bus, plan.result(symbol, "skipped", why))
        tasks, skipped = share_out(plan, choice, [symbol for symbol in good if symbol not in unasked])
        for result in skipped:
            await publish_result(self._bus, result)
        outcomes = await asyncio.gather(*(self._publish(task) for task in tasks), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        log.info(
            "planned", request_id=plan.request_id, run_id=plan.run_id, job=plan.request.job, lane=plan.lane,
            providers=dict(Counter(task.provider for task in tasks)), dataset=probe.dataset, timeframe=probe.timeframe,
            tasks=outcomes.count(True), coalesced=outcomes.count(False), refused=len(bad),
            skipped=dict(Counter([*unasked.values(), *(result.reason for result in skipped)])),
        )  # fmt: skip

    async def _announce(self, plan: Plan, symbols: Sequence[str], refused: str | None = None) -> None:
        for planned in plan.announcements(symbols, refused):
            identity = f"planned:{plan.run_id}:{plan.request_id}:{planned.part}"
            await self._bus.publish(subjects.run("planned", plan.request.job), planned, message_id=identity)

    async def _publish(self, task: FetchTask) -> bool:
        async with self._gate:
            return await publish_task(self._bus, task)
