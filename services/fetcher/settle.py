"""How a task ends: published, sent back, handed over or given up on; reported first, acknowledged last."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import structlog
from nats.js.errors import APIError

from contracts import subjects
from contracts.price_events import PriceEvent
from contracts.run_events import Outcome
from services.fetcher.accounts import Account
from services.fetcher.choose_provider import NoProviderError, choose
from services.fetcher.lanes import Held
from services.fetcher.permits import WINDOW_FULL
from services.fetcher.provider import ProviderError, Verdict
from services.fetcher.publish_events import empty_answer, publish_answer
from services.fetcher.reports import bury, report_result
from services.fetcher.rest import RestOfAll
from services.fetcher.verdicts import MAX_NAK_S, Then, consequence, retry_delay_s
from services.runtime.bus import Bus

log = structlog.get_logger()


class Settlement:
    """Ends the tasks of one provider. Tries are counted here, in memory: they only decide when to give up."""

    def __init__(self, bus: Bus, provider: str, accounts: Mapping[str, Account], rest: RestOfAll) -> None:
        self._bus = bus
        self._name = provider
        self._accounts = accounts
        self._rest = rest
        self._attempts: Counter[tuple[str, str]] = Counter()

    async def publish(self, held: Held, events: Sequence[PriceEvent], called_at: datetime, calls: int) -> None:
        """Publish the answer, report it, acknowledge; an answer without rows is one too, one that cannot be published none."""
        try:
            rows = await publish_answer(self._bus, held.task, events, called_at)
        except ProviderError as error:
            await self.fail(held, error, called_at, calls)
            return
        await self.end(held, "refreshed" if rows else "empty", called_at=called_at, rows=rows, calls=calls)

    async def fail(self, held: Held, error: ProviderError, called_at: datetime, calls: int = 0) -> None:
        """Do what follows from the verdict: back to the queue, to another provider, or a dead letter."""
        if error.verdict is Verdict.EMPTY:
            profile = self._accounts[self._name].profile
            await self.publish(held, empty_answer(profile, held.task, called_at), called_at, calls)
            return
        key = (held.task.run_id, held.msg.subject)
        self._attempts[key] += 1
        then = consequence(error.verdict, self._attempts[key])
        if then is Then.RETRY:
            delay_s = min(MAX_NAK_S, self._rest.remaining_s(held.task.lane) or retry_delay_s(self._attempts[key]))
            await held.msg.nak(delay=delay_s)
            return
        if then is Then.ELSEWHERE and await self._hand_over(held):
            await held.msg.ack()
            return
        del self._attempts[key]
        await bury(self._bus, held.msg, error.verdict, f"{held.task.symbol}: {error.message}", held.task)
        await self.end(held, "failed", reason=str(error.verdict), message=error.message, called_at=called_at, calls=calls)

    async def _hand_over(self, held: Held) -> bool:
        """Give the task to the next provider of the same kind of series; False when there is none."""
        tried = [*held.task.tried, self._name]
        here = self._accounts[self._name]
        alike = {
            name: account
            for name, account in self._accounts.items()
            if name not in tried and account.profile.real == here.profile.real and account.series_class == here.series_class
        }
        try:
            account = choose(alike, msgspec.structs.replace(held.task, tried=tried), None)
        except NoProviderError:
            return False
        task = msgspec.structs.replace(held.task, provider=account.name, tried=tried)
        subject = subjects.fetch_task(task)
        try:
            await self._bus.publish(subject, task, message_id=f"{task.run_id}:{subject}")
        except APIError as error:
            if WINDOW_FULL not in (error.description or ""):
                raise
        log.info("handed_over", symbol=task.symbol, from_provider=self._name, to_provider=account.name)
        return True

    async def end(self, held: Held, outcome: Outcome, **details: Any) -> None:
        """Report the outcome and acknowledge."""
        self._attempts.pop((held.task.run_id, held.msg.subject), None)
        await report_result(self._bus, held.task, outcome, **details)
        await held.msg.ack()
