"""Orphaned tasks, which nobody pulls: of providers that are gone or rest for long. Another provider gets them; none vanishes."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from nats.js.errors import APIError, NotFoundError

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, decode
from services.fetcher.circuit.breaker import ProviderCircuit
from services.fetcher.retry_policy import MAX_NAK_S
from services.fetcher.routing.router import Router
from services.fetcher.tasks.coalesced import publish_task
from services.fetcher.tasks.results import report_result
from services.runtime.bus import Bus
from services.runtime.dead_letters import BAD_REQUEST, MALFORMED, DeadLetters, StoredMessage
from services.runtime.faults import describe

SWEEP_EVERY_S = 15.0
SETTLE_S = 1.0

log = structlog.get_logger()


class OrphanReaper:
    """Reaper of orphaned tasks on TASKS. Any number may run: a task is deleted once, and only who deleted it reports."""

    def __init__(self, bus: Bus, circuits: Mapping[str, ProviderCircuit], chooser: Router, dead_letters: DeadLetters) -> None:
        self._bus = bus
        self._dead_letters = dead_letters
        self._circuits = circuits
        self._chooser = chooser
        self._opened = asyncio.Event()
        for circuit in circuits.values():
            circuit.on_open.append(self._opened.set)

    async def run(self) -> None:
        """Sweep for ever: now and then, and when the circuit of a provider opens."""
        while True:
            try:
                await self.sweep()
            except Exception as error:  # the bus is away, say; the next sweep may work
                log.debug("sweep_failed", error=describe(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_EVERY_S):
                    await self._opened.wait()
                # What was under way when it opened ends by itself, for the most part by now.
                await asyncio.sleep(SETTLE_S)
            self._opened.clear()

    async def sweep(self) -> int:
        """Give the tasks that were moved or given up on."""
        state = (await self._bus.js.stream_info(subjects.TASKS, subjects_filter="task.>")).state
        swept = 0
        for subject in state.subjects or {}:
            _, provider, lane, *_ = subject.split(".")
            circuit = self._circuits.get(provider)
            if circuit is None or lane not in LANES or circuit.retry_in_s(lane) > MAX_NAK_S:
                swept += await self._isolated(subject, circuit)
        return swept

    async def _isolated(self, subject: str, circuit: ProviderCircuit | None) -> bool:
        """Handle one subject; what goes wrong with it keeps nobody from the others."""
        try:
            return await self._handle(subject, circuit)
        except Exception as error:  # a bug, or a stream that is full
            log.warning("orphan_not_handled", subject=subject, error=describe(error))
            return False

    async def _handle(self, subject: str, circuit: ProviderCircuit | None) -> bool:
        try:
            raw = await self._bus.js.get_msg(subjects.TASKS, seq=1, subject=subject, next=True)
        except NotFoundError:
            return False
        body, sequence = raw.data or b"", raw.seq or 0
        try:
            task = decode(body, FetchTask)
        except Exception as error:  # RecursionError, OverflowError: whatever bytes can cause
            task, fault = None, describe(error)
        expired = task is not None and task.expires_at <= datetime.now(UTC)
        if task is not None and not expired and await self._reroute(task, circuit):
            return await self._delete(sequence)
        if not (circuit is None or expired or task is None):
            return False
        if not await self._delete(sequence):
            return False
        source = StoredMessage(subjects.TASKS, sequence, subject, body)
        if task is None:
            await self._dead_letters.publish(source, MALFORMED, fault)
        elif not expired:  # at its deadline the cacher ends its run
            why = f"provider {task.provider} is no longer enabled and no other one has this"
            await self._dead_letters.publish(source, BAD_REQUEST, why, task)
            await report_result(self._bus, task, "failed", reason=BAD_REQUEST, message=why)
        return True

    async def _delete(self, sequence: int) -> bool:
        try:
            return bool(await self._bus.js.delete_msg(subjects.TASKS, sequence))
        except (NotFoundError, APIError):
            return False

    async def _reroute(self, task: FetchTask, circuit: ProviderCircuit | None) -> bool:
        """Give the task to another provider, if there is one; for a provider that only rests to one that can do it now."""
        reason = "removed" if circuit is None else circuit.blocked_state(task.lane) or ""
        moved = await self._chooser.fail_over(task, reason, ready=circuit is not None)
        if moved is None:
            return False
        # Published before the old one is deleted: a crash in between costs a call, not the task.
        await publish_task(self._bus, moved)
        log.info("task_rerouted", symbol=task.symbol, from_provider=task.provider, to_provider=moved.provider, reason=reason)
        return True
