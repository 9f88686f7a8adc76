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
from services.fetcher.planning.freshness import up_to_date
from services.fetcher.planning.plan import RequestPlan, assign_providers, parse_request, split_valid
from services.fetcher.planning.universe import Universe, UniverseRefusedError, UniverseUnavailableError
from services.fetcher.routing.router import NoProviderError, Router
from services.fetcher.tasks.coalesced import StreamFullError, publish_task
from services.fetcher.tasks.results import publish_result
from services.runtime.bus import Bus
from services.runtime.consumer import Batch, Handler
from services.runtime.dead_letters import BAD_REQUEST, INTERNAL_ERROR, DeadLetters

PUBLISHES_AT_ONCE = 128
# A request waits for these to pass.
WAITS = (UniverseUnavailableError, StreamFullError)

log = structlog.get_logger()


class Planner(Handler[RequestPlan]):
    """Handler of REFRESH: publishes the tasks of each request. One that cannot be planned now is redelivered."""

    def __init__(self, bus: Bus, chooser: Router, universe: Universe, dead_letters: DeadLetters, settings_expiry_s: float) -> None:
        self._bus = bus
        self._chooser = chooser
        self._universe = universe
        self._dead_letters = dead_letters
        self._expiry = timedelta(seconds=settings_expiry_s)
        self._gate = asyncio.Semaphore(PUBLISHES_AT_ONCE)

    @override
    def decode(self, msg: Msg) -> RequestPlan:
        return parse_request(msg, self._expiry)

    @override
    async def handle(self, batch: Batch[RequestPlan]) -> None:
        """Plan requests. What was published already when one is planned again is found by its message id."""
        for msg, plan in batch.deliveries:
            await self._plan_or_refuse(msg, plan)

    @override
    async def give_up(self, event: RequestPlan, why: str) -> None:
        await self._refuse(event, event.request.symbols, INTERNAL_ERROR, why)

    async def _plan_or_refuse(self, msg: Msg, plan: RequestPlan) -> None:
        asked: Sequence[str] = plan.request.symbols
        try:
            asked = await self._universe.symbols(plan.request)
            await self._plan(msg, plan, asked)
        except (NoProviderError, UniverseRefusedError) as error:
            await self._dead_letters.publish(msg, BAD_REQUEST, str(error))
            await self._refuse(plan, asked, BAD_REQUEST, str(error))

    async def _refuse(self, plan: RequestPlan, asked: Sequence[str], reason: str, why: str) -> None:
        await self._publish_planned(plan, asked, why)
        for symbol in asked:
            await publish_result(self._bus, plan.result(symbol[:64], "failed", reason, message=why))

    async def _plan(self, msg: Msg, plan: RequestPlan, asked: Sequence[str]) -> None:
        good, bad = split_valid(asked)
        if not good and not bad:
            log.info("nothing_to_plan", request_id=plan.request_id, universe=plan.request.universe)
        probe = plan.task("", good[0] if good else "X")
        choice = await self._chooser.select(probe, plan.request.provider)
        unasked = await up_to_date(self._bus, plan, probe, good, choice)
        await self._publish_planned(plan, asked)
        for symbol, why in bad.items():
            await self._dead_letters.publish(msg, BAD_REQUEST, f"symbols: {why}")
            await publish_result(self._bus, plan.result(symbol[:64], "failed", "bad_request", message=why))
        for symbol, why in unasked.items():
            await publish_result(self._bus, plan.result(symbol, "skipped", why))
        tasks, skipped = assign_providers(plan, choice, [symbol for symbol in good if symbol not in unasked])
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

    async def _publish_planned(self, plan: RequestPlan, symbols: Sequence[str], refused: str | None = None) -> None:
        for planned in plan.planned_events(symbols, refused):
            identity = f"planned:{plan.run_id}:{plan.request_id}:{planned.part}"
            await self._bus.publish(subjects.run("planned", plan.request.job), planned, message_id=identity)

    async def _publish(self, task: FetchTask) -> bool:
        async with self._gate:
            return await publish_task(self._bus, task)
