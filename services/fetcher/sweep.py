"""Tasks nobody will pull: of providers that are gone, and expired ones of providers that rest. None of them stays unexplained."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, decode
from services.fetcher.accounts import Account
from services.fetcher.choose_provider import NoProviderError, choose
from services.fetcher.reports import bury_stored, report_result
from services.fetcher.rest import RestOfAll
from services.runtime.bus import Bus

SWEEP_EVERY_S = 15.0

log = structlog.get_logger()


class Sweeper:
    """Looks through TASKS now and then. Any number may: a task is deleted once, and only who deleted it reports."""

    def __init__(self, bus: Bus, accounts: Mapping[str, Account], rests: Mapping[str, RestOfAll]) -> None:
        self._bus = bus
        self._accounts = accounts
        self._rests = rests

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            try:
                await self.sweep()
            except (APIError, nats.errors.Error) as error:
                log.debug("sweep_failed", error=str(error))
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> int:
        """Give the tasks that were moved or given up on."""
        state = (await self._bus.js.stream_info(subjects.TASKS, subjects_filter="task.>")).state
        swept = 0
        for subject in state.subjects or {}:
            _, provider, lane, *_ = subject.split(".")
            gone = provider not in self._accounts
            if gone or lane not in LANES or self._rests[provider].remaining_s(lane) > SWEEP_EVERY_S:
                swept += await self._look_at(subject, gone=gone)
        return swept

    async def _look_at(self, subject: str, *, gone: bool) -> bool:
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
        if not (gone or expired or task is None):
            return False
        if not await self._delete(sequence):
            return False
        where = (subjects.TASKS, sequence, subject, body)
        if task is None:
            await bury_stored(self._bus, where, "malformed", fault)
        elif expired:
            await bury_stored(self._bus, where, "expired", f"not fetched before {task.expires_at.isoformat()}", task)
            await report_result(self._bus, task, "expired", reason="expired")
        elif not await self._move(task):
            why = f"provider {task.provider} is no longer enabled and no other one has this"
            await bury_stored(self._bus, where, "bad_request", why, task)
            await report_result(self._bus, task, "failed", reason="bad_request", message=why)
        return True

    async def _delete(self, sequence: int) -> bool:
        try:
            return bool(await self._bus.js.delete_msg(subjects.TASKS, sequence))
        except (NotFoundError, APIError):
            return False

    async def _move(self, task: FetchTask) -> bool:
        try:
            account = choose(self._accounts, task, None)
        except NoProviderError:
            return False
        moved = msgspec.structs.replace(task, provider=account.name, tried=[*task.tried, task.provider])
        subject = subjects.fetch_task(moved)
        await self._bus.publish(subject, moved, message_id=f"{task.run_id}:{subject}")
        return True
