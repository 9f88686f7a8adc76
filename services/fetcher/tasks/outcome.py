"""Outcomes of tasks: published, retried, failed over or given up on; reported first, acknowledged last."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any

import nats.errors
import structlog

from contracts.price_events import PriceEvent
from contracts.run_events import Outcome
from contracts.symbol_health import SymbolHealth
from services.fetcher.calls.provider_call import CallResult
from services.fetcher.calls.publish import empty_answer, publish_answer
from services.fetcher.circuit.breaker import ProviderCircuit
from services.fetcher.provider import Profile, ProviderError, Verdict
from services.fetcher.retry_policy import MAX_NAK_S, RETRY_POLICIES, Action, next_action, retry_delay_s
from services.fetcher.routing.router import Router
from services.fetcher.routing.symbol_health import SymbolHealthStore, describe_health
from services.fetcher.tasks.coalesced import publish_task
from services.fetcher.tasks.results import report_result
from services.fetcher.tasks.task_queue import PendingTask
from services.runtime.bus import Bus
from services.runtime.consumer import FailurePolicy
from services.runtime.faults import describe

log = structlog.get_logger()


class TaskOutcomes:
    """Ends the tasks of one provider. Tries are counted here, in memory: they only decide when to give up."""

    def __init__(
        self,
        bus: Bus,
        failures: FailurePolicy,
        profile: Profile,
        circuit: ProviderCircuit,
        chooser: Router,
        states: SymbolHealthStore,
    ) -> None:
        self._bus = bus
        self._failures = failures
        self._dead_letters = failures.dead_letters
        self._profile = profile
        self._name = profile.name
        self._circuit = circuit
        self._chooser = chooser
        self._states = states
        self._attempts: Counter[tuple[str, str]] = Counter()

    async def finish_call(self, chosen: Sequence[PendingTask], answered: CallResult, called_at: datetime) -> None:
        """End the tasks that shared a call, each by itself. The call's permits are counted with the first."""
        error, share = answered.error, answered.permits
        if error is not None:
            first, *others = chosen
            shared = bool(others)
            failing = [self.fail(held, error, called_at, shared=shared) for held in others]
            ends = [self.fail(first, error, called_at, share, shared=shared), *failing]
            await asyncio.gather(*map(self._isolated, chosen, ends))
            return
        events = defaultdict(list)
        for event in answered.answer.events:
            events[event.symbol].append(event)
        missing = ProviderError(Verdict.NOT_FOUND, f"{self._name} left it out of its answer")
        ends = []
        for held in chosen:
            symbol = held.task.symbol
            if symbol in events:
                ends.append(self.publish(held, events[symbol], called_at, share))
            else:
                ends.append(self.fail(held, answered.answer.failed.get(symbol, missing), called_at, share))
            share = 0
        await asyncio.gather(*map(self._isolated, chosen, ends))

    async def publish(self, held: PendingTask, events: Sequence[PriceEvent], called_at: datetime, calls: int) -> None:
        """Publish the answer, report it, acknowledge; an answer without rows is one too, one that cannot be published none."""
        try:
            rows = await publish_answer(self._bus, self._profile, held.task, events, called_at)
        except ProviderError as error:
            await self.fail(held, error, called_at, calls)
            return
        await self._states.record(held.task, None)
        await self.finish(held, "refreshed" if rows else "empty", called_at=called_at, rows=rows, calls=calls)

    async def fail(
        self, held: PendingTask, error: ProviderError, called_at: datetime, calls: int = 0, *, shared: bool = False
    ) -> None:
        """Do what follows from the verdict: back to the queue, to another provider, or a dead letter.

        `shared`: the error is of a call that several symbols shared, as a whole.
        """
        if RETRY_POLICIES[error.verdict].action is Action.PUBLISH:
            await self.publish(held, empty_answer(self._profile, held.task, called_at), called_at, calls)
            return
        if not (shared and error.verdict is Verdict.NOT_FOUND):
            # Which of the symbols it was that was not found, a shared error does not say.
            await self._states.record(held.task, error)
        key = (held.task.run_id, held.msg.subject)
        self._attempts[key] += 1
        other_key = not self._circuit.retry_in_s(held.task.lane)
        action = next_action(error.verdict, self._attempts[key], other_key=other_key)
        if action is Action.RETRY:
            await self._retry_later(held)
            return
        if action is Action.FAIL_OVER and await self._fail_over(held, error.verdict):
            return
        if RETRY_POLICIES[error.verdict].keeps_waiting and held.task.lane != "manual":
            await self._retry_later(held)
            return
        del self._attempts[key]
        await self._dead_letters.publish(held.msg, error.verdict, f"{held.task.symbol}: {error.message}", held.task)
        await self.finish(held, "failed", reason=str(error.verdict), message=error.message, called_at=called_at, calls=calls)

    async def skip(self, held: PendingTask, health: SymbolHealth) -> None:
        """End a task whose symbol this provider does not have, at no call: somebody else may, else it is skipped."""
        reason = health.verdict or health.state
        if not await self._fail_over(held, reason):
            await self.finish(held, "skipped", reason=reason, message=describe_health(health))

    async def _retry_later(self, held: PendingTask) -> None:
        """Back to the queue; to somebody who can do it now, if this provider rests for long."""
        lane = held.task.lane
        blocked_s = self._circuit.retry_in_s(lane)
        if blocked_s > MAX_NAK_S and await self._fail_over(held, self._circuit.blocked_state(lane) or "", ready=True):
            return
        await held.msg.nak(delay=min(MAX_NAK_S, blocked_s or retry_delay_s(self._attempts[held.task.run_id, held.msg.subject])))

    async def _fail_over(self, held: PendingTask, reason: str, *, ready: bool = False) -> bool:
        """Give the task to the next provider of the same kind of series; False when there is none."""
        task = await self._chooser.fail_over(held.task, reason, ready=ready)
        if task is None:
            return False
        await publish_task(self._bus, task)
        log.info("task_failed_over", symbol=task.symbol, from_provider=self._name, to_provider=task.provider, reason=reason)
        self._attempts.pop((held.task.run_id, held.msg.subject), None)
        await held.msg.ack()
        return True

    async def broken(self, held: PendingTask, error: Exception) -> None:
        """Redeliver a task at which our code failed; when it failed too often, end it as a dead letter."""
        fault = self._failures.fault(held.msg, error)
        if fault is None:
            log.warning("task_redelivered", provider=self._name, symbol=held.task.symbol, error=describe(error))
            await self._failures.redeliver(held.msg, error)
            return
        reason, why = fault
        try:
            await self._dead_letters.publish(held.msg, reason, f"{held.task.symbol}: {why}", held.task)
            await self.finish(held, "failed", reason=reason, message=why)
        except nats.errors.Error as unavailable:
            await self._failures.redeliver(held.msg, unavailable)

    async def _isolated(self, held: PendingTask, finish: Coroutine[Any, Any, None]) -> None:
        """Await the end of one task; what it raises concerns no other one."""
        try:
            await finish
        except Exception as error:  # a bug, or the bus refuses what must be told
            await self.broken(held, error)

    async def finish(self, held: PendingTask, outcome: Outcome, **details: Any) -> None:
        """Report the outcome and acknowledge."""
        self._attempts.pop((held.task.run_id, held.msg.subject), None)
        await report_result(self._bus, held.task, outcome, **details)
        await held.msg.ack()
