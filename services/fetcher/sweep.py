"""Tasks nobody will pull: of providers that are gone or blocked for long. Another gets them, or they expire; none vanishes."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, decode
from services.fetcher.chooser import Chooser
from services.fetcher.circuit.breaker import ProviderCircuit
from services.fetcher.reports import bury_stored, report_result
from services.fetcher.retry_policy import MAX_NAK_S
from services.runtime.bus import Bus

SWEEP_EVERY_S = 15.0
SETTLE_S = 1.0

log = structlog.get_logger()


class Sweeper:
    """Looks through TASKS now and then. Any number may: a task is deleted once, and only who deleted it reports."""

    def __init__(self, bus: Bus, circuits: Mapping[str, ProviderCircuit], chooser: Chooser) -> None:
        self._bus = bus
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
            except (APIError, nats.errors.Error) as error:
                log.debug("sweep_failed", error=str(error))
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
                swept += await self._look_at(subject, circuit)
        return swept

    async def _look_at(self, subject: str, circuit: ProviderCircuit | None) -> bool:
        try:
            raw = await self._bus.js.get_msg(subjects.TASKS, seq=1, subject=subject, next=True)
        except NotFoundError:
            return False
        body, sequence = raw.data or b"", raw.seq or 0
        try:
            task = decode(body, FetchTask)
        except (msgspec.MsgspecError, ValueError) as error:
            task, fault = None, f"{subject}: {error}"
        expired = task is not None and task.expires_at <= datetime.now(UTC)
        if task is not None and not expired and await self._move(task, circuit):
            return await self._delete(sequence)
        if not (circuit is None or expired or task is None):
            return False
        if not await self._delete(sequence):
            return False
        where = (subjects.TASKS, sequence, subject, body)
        if task is None:
            await bury_stored(self._bus, where, "malformed", fault)
        elif expired:
            await bury_stored(self._bus, where, "expired", f"not fetched before {task.expires_at.isoformat()}", task)
            await report_result(self._bus, task, "expired", reason="expired")
        else:
            why = f"provider {task.provider} is no longer enabled and no other one has this"
            await bury_stored(self._bus, where, "bad_request", why, task)
            await report_result(self._bus, task, "failed", reason="bad_request", message=why)
        return True

    async def _delete(self, sequence: int) -> bool:
        try:
            return bool(await self._bus.js.delete_msg(subjects.TASKS, sequence))
        except (NotFoundError, APIError):
            return False

    async def _move(self, task: FetchTask, circuit: ProviderCircuit | None) -> bool:
        """Give the task to another provider, if there is one; for one that is only blocked to one that is not."""
        reason = "removed" if circuit is None else circuit.blocked_state(task.lane) or ""
        moved = await self._chooser.instead(task, reason, ready=circuit is not None)
        if moved is None:
            return False
        subject = subjects.fetch_task(moved)
        # Published before the old one is deleted: a crash in between costs a call, not the task.
        await self._bus.publish(subject, moved, message_id=f"{task.run_id}:{subject}")
        log.info("moved", symbol=task.symbol, from_provider=task.provider, to_provider=moved.provider, reason=reason)
        return True
