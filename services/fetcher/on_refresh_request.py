"""The plan: a request becomes one task per symbol, or a reason why not."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js.errors import APIError

from contracts import subjects
from contracts.fetch_task import FetchTask
from services.fetcher.choose_provider import NoProviderError
from services.fetcher.chooser import Chooser
from services.fetcher.needless import needless
from services.fetcher.permits import WINDOW_FULL
from services.fetcher.plan import Plan, by_validity, understand
from services.fetcher.reports import bury, publish_result
from services.fetcher.share_out import share_out
from services.fetcher.stopping import or_stop
from services.fetcher.twins import Twins
from services.fetcher.universe import Universe, UniverseRefusedError, UniverseUnavailableError
from services.runtime.bus import Bus
from services.runtime.puller import Puller, kept_alive
from services.runtime.topology import PLANNER

PUBLISHES_AT_ONCE = 128
IDLE_S = 5.0

log = structlog.get_logger()


class StreamFullError(Exception):
    """TASKS takes no more for now; the request waits."""


class Planner:
    """Reads requests one by one and publishes their tasks."""

    def __init__(self, bus: Bus, chooser: Chooser, universe: Universe, settings_expiry_s: float) -> None:
        self._bus = bus
        self._chooser = chooser
        self._universe = universe
        self._expiry = timedelta(seconds=settings_expiry_s)
        self._twins = Twins(bus)
        self._gate = asyncio.Semaphore(PUBLISHES_AT_ONCE)

    async def run(self, puller: Puller, stop: asyncio.Event, ack_wait_s: float) -> None:
        """Plan until stopped; a request in the middle is finished first."""
        looking_after = asyncio.create_task(self._twins.run())
        try:
            while not stop.is_set():
                for msg in await or_stop(stop, puller.pull(1, IDLE_S)) or ():
                    async with kept_alive([msg], ack_wait_s):
                        await self.on_refresh_request(msg)
        finally:
            looking_after.cancel()
            await puller.close()

    async def on_refresh_request(self, msg: Msg) -> None:
        """Plan one request. Whatever happens it ends acknowledged, or back on the stream to be tried again."""
        try:
            await self._plan_or_bury(msg)
        except (UniverseUnavailableError, StreamFullError) as error:
            log.warning("request_waits", run_id=str(msg.metadata.sequence.stream), error=str(error))
            await msg.nak(delay=5)
        except (APIError, nats.errors.Error) as error:
            # What was published already is found again by its message id.
            log.warning("plan_interrupted", run_id=str(msg.metadata.sequence.stream), error=repr(error))
            await msg.nak(delay=2)
        else:
            await msg.ack()

    async def _plan_or_bury(self, msg: Msg) -> None:
        try:
            plan = understand(msg, self._expiry)
        except (msgspec.MsgspecError, ValueError) as error:
            await bury(self._bus, msg, "malformed", f"{msg.subject}: {error}")
            return
        asked: Sequence[str] = plan.request.symbols
        try:
            asked = await self._universe.symbols(plan.request)
            await self._plan(msg, plan, asked)
        except (NoProviderError, UniverseRefusedError) as error:
            await bury(self._bus, msg, "bad_request", f"{msg.subject}: {error}")
            await self._announce(plan, asked, str(error))
            for symbol in asked:
                await publish_result(self._bus, plan.result(symbol[:64], "failed", "bad_request", message=str(error)))

    async def _plan(self, msg: Msg, plan: Plan, asked: Sequence[str]) -> None:
        good, bad = by_validity(asked)
        if not good and not bad:
            log.info("nothing_to_plan", request_id=plan.request_id, universe=plan.request.universe)
        probe = plan.task("", good[0] if good else "X")
        choice = await self._chooser.choice(probe, plan.request.provider)
        unasked = await needless(self._bus, plan, probe, good, choice)
        await self._announce(plan, asked)
        for symbol, why in bad.items():
            await bury(self._bus, msg, "bad_request", f"symbols: {why}")
            await publish_result(self._bus, plan.result(symbol[:64], "failed", "bad_request", message=why))
        for symbol, why in unasked.items():
            await publish_result(self._bus, plan.result(symbol, "skipped", why))
        tasks, skipped = share_out(plan, choice, [symbol for symbol in good if symbol not in unasked])
        for result in skipped:
            await publish_result(self._bus, result)
        outcomes = await asyncio.gather(*(self._publish(plan, task) for task in tasks), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        log.info(
            "planned", request_id=plan.request_id, run_id=plan.run_id, job=plan.request.job, lane=plan.lane,
            providers=dict(Counter(task.provider for task in tasks)), dataset=probe.dataset, timeframe=probe.timeframe,
            tasks=outcomes.count("planned"), merged=outcomes.count("merged"), refused=len(bad),
            skipped=dict(Counter([*unasked.values(), *(result.reason for result in skipped)])),
        )  # fmt: skip

    async def _announce(self, plan: Plan, symbols: Sequence[str], refused: str | None = None) -> None:
        for planned in plan.announcements(symbols, refused):
            identity = f"planned:{plan.run_id}:{plan.request_id}:{planned.part}"
            await self._bus.publish(subjects.run("planned", plan.request.job), planned, message_id=identity)

    async def _publish(self, plan: Plan, task: FetchTask) -> str:
        subject = subjects.fetch_task(task)
        async with self._gate:
            try:
                await self._bus.publish(subject, task, message_id=f"{plan.run_id}:{subject}")
                return "planned"
            except APIError as error:
                if WINDOW_FULL not in (error.description or ""):
                    raise StreamFullError(f"TASKS refuses: {error.description}") from error
            # One of the same is in flight and one waits: what they bring will do, if it is called for after now.
            self._twins.add(task)
            merged = plan.result(task.symbol, "merged", "twin", provider=task.provider, task=subject)
            await publish_result(self._bus, merged)
            return "merged"


def planner_puller(bus: Bus) -> Puller:
    """The puller of the planner's durable."""
    return Puller(bus, subjects.REFRESH, PLANNER)
