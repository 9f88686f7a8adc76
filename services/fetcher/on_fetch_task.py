"""The work on one provider: pace, tasks, permit, call, events, results, acks; in this order nothing is lost or paid twice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError
from prometheus_client import Counter as Metric
from prometheus_client import Histogram

from contracts import subjects
from contracts.price_events import PriceEvent
from contracts.run_events import Outcome
from services.fetcher.accounts import Account
from services.fetcher.lanes import Held, Lanes
from services.fetcher.ledger import WINDOW_FULL, Ledger
from services.fetcher.on_refresh_request import NoProviderError, choose
from services.fetcher.provider import Answer, Call, Http, ProviderError, Verdict, refuse_unoffered
from services.fetcher.publish_events import publish_answer
from services.fetcher.reports import bury, report_result
from services.fetcher.rest import Rest
from services.fetcher.served import Served, last_served
from services.fetcher.verdicts import MAX_NAK_S, Then, consequence, retry_delay_s
from services.runtime.bus import Bus
from services.runtime.puller import kept_alive

GRACE_S = 2.0
CALLS = Metric("quotebus_provider_calls_total", "Permits spent on calls.", ["provider"])
CALL_SECONDS = Histogram("quotebus_provider_call_seconds", "Duration of a call, all its requests.", ["provider", "verdict"])

log = structlog.get_logger()
Permit = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Work:
    """What a worker works with. `http` makes a client for one call, given how to take its permits."""

    bus: Bus
    account: Account
    accounts: Mapping[str, Account]
    ledger: Ledger
    rest: Rest
    http: Callable[[Permit], Http]
    ack_wait_s: float
    calls_at_once: int


class Worker:
    """Makes the calls of one provider."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._bus = work.bus
        self._name = work.account.name
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until stopped; then finish the calls under way if they end soon, and give everything else back."""
        await self._work.ledger.open()
        lanes = Lanes(self._bus, self._name, self._work.ack_wait_s)
        alive = asyncio.create_task(lanes.keep_alive())
        try:
            await self._until_stopped(stop, lanes)
        finally:
            alive.cancel()
            await lanes.close()
            await self._finish_calls()

    async def _until_stopped(self, stop: asyncio.Event, lanes: Lanes) -> None:
        pace, slots = self._work.account.pace(), asyncio.Semaphore(self._work.calls_at_once)
        size = max(self._work.account.symbols_per_call(dataset) for dataset in self._work.account.profile.offers)
        ready = False
        while not stop.is_set():
            if (rest_s := self._work.rest.remaining_s()) > 0:
                if rest_s > MAX_NAK_S:
                    await lanes.give_back()
                await _sleep_or_stop(stop, min(rest_s, 1.0))
                continue
            # The pace is kept before tasks are pulled: a task in hand is a task that no other replica can take.
            if pace and not ready:
                ready = await _acquire_or_stop(stop, pace.acquire())
                continue
            await slots.acquire()
            chosen = await lanes.next_call(size, 1.0)
            if not chosen:
                slots.release()
                continue
            ready = False
            self._start(chosen, slots)

    def _start(self, chosen: Sequence[Held], slots: asyncio.Semaphore) -> None:
        call = asyncio.create_task(self.on_fetch_tasks(chosen))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda _: slots.release())

    async def on_fetch_tasks(self, chosen: Sequence[Held]) -> None:
        """Serve tasks that share a call. Each is acknowledged, sent back or given up on by itself."""
        try:
            async with kept_alive([held.msg for held in chosen], self._work.ack_wait_s):
                wanted = await self._still_wanted(chosen)
                limit = self._work.account.symbols_per_call(chosen[0].task.dataset)
                for i in range(0, len(wanted), limit):
                    await self._call(wanted[i : i + limit])
        except (asyncio.CancelledError, nats.errors.Error, APIError) as error:
            # Stopping, or the bus refuses what must be told: the tasks go back, and the events already published serve them.
            for held in chosen:
                if not held.msg.is_acked:
                    with suppress(nats.errors.Error):
                        await held.msg.nak(delay=None if isinstance(error, asyncio.CancelledError) else 2)
            if isinstance(error, asyncio.CancelledError):
                raise
            log.warning("tasks_sent_back", provider=self._name, tasks=len(chosen), error=str(error) or type(error).__name__)

    async def _still_wanted(self, chosen: Sequence[Held]) -> list[Held]:
        """Those whose time is not up and that no call since `wanted_at` has answered; the others end here, at no call."""
        first = chosen[0].task
        served = await last_served(self._bus, first.dataset, first.timeframe, [held.task.symbol for held in chosen])
        wanted = []
        for held in chosen:
            task, event = held.task, served.get(held.task.symbol)
            if task.expires_at <= datetime.now(UTC):
                await bury(self._bus, held.msg, "expired", f"not fetched before {task.expires_at.isoformat()}", task)
                await self._end(held, "expired", reason="expired")
            elif event and _serves(event, held, self._name):
                outcome_at = event.fetched_at
                await self._end(held, "merged", reason="served", called_at=outcome_at)
            else:
                wanted.append(held)
        return wanted

    async def _call(self, chosen: Sequence[Held]) -> None:
        task = chosen[0].task
        call = Call(task.dataset, tuple(held.task.symbol for held in chosen), task.timeframe, task.start, task.end)
        called_at = datetime.now(UTC)
        answer, error, calls = await self._ask(call, called_at)
        CALLS.labels(self._name).inc(calls)
        if error is not None:
            await self._work.rest.failed(error)
            shares = [calls] + [0] * (len(chosen) - 1)
            await asyncio.gather(*(self._fail(held, error, called_at, share) for held, share in zip(chosen, shares, strict=True)))
            return
        await self._work.rest.answered()
        events = {event.symbol: event for event in answer.events}
        missing = ProviderError(Verdict.NOT_FOUND, f"{self._name} left it out of its answer")
        jobs = []
        for held in chosen:
            share, calls = calls, 0
            if held.task.symbol in events:
                jobs.append(self._publish(held, events[held.task.symbol], called_at, share))
            else:
                jobs.append(self._fail(held, answer.failed.get(held.task.symbol, missing), called_at, share))
        await asyncio.gather(*jobs)

    async def _ask(self, call: Call, called_at: datetime) -> tuple[Answer, ProviderError | None, int]:
        """The answer or the error of the call as a whole (a fault of the adapter is one too), and the permits it took."""
        clock = asyncio.get_running_loop().time
        started, verdict, spent = clock(), "ok", 0

        async def permit(cost: int) -> None:
            nonlocal spent
            await self._work.ledger.permit(cost)
            spent += cost

        try:
            refuse_unoffered(self._work.account.profile, call)
            return await self._work.account.provider.fetch(call, self._work.http(permit), called_at), None, spent
        except ProviderError as error:
            verdict = error.verdict
            return Answer(), error, spent
        except Exception as error:  # an adapter's bug must end in a dead letter, not in a dead worker
            log.exception("adapter_failed", provider=self._name, dataset=call.dataset)
            fault = f"the adapter failed on the answer: {type(error).__name__}: {error}"
            return Answer(), ProviderError(Verdict.MALFORMED, fault), spent
        finally:
            CALL_SECONDS.labels(self._name, verdict).observe(clock() - started)

    async def _publish(self, held: Held, event: PriceEvent, called_at: datetime, calls: int) -> None:
        rows = await publish_answer(self._bus, held.task, event, called_at)
        await self._end(held, "refreshed" if rows else "empty", called_at=called_at, rows=rows, calls=calls)

    async def _fail(self, held: Held, error: ProviderError, called_at: datetime, calls: int = 0) -> None:
        if error.verdict is Verdict.EMPTY:
            await self._end(held, "empty", called_at=called_at, calls=calls)
            return
        key = (held.task.run_id, held.msg.subject)
        self._attempts[key] += 1
        then = consequence(error.verdict, self._attempts[key])
        if then is Then.RETRY:
            delay_s = min(MAX_NAK_S, self._work.rest.remaining_s() or retry_delay_s(self._attempts[key]))
            await held.msg.nak(delay=delay_s)
            return
        if then is Then.ELSEWHERE and await self._hand_over(held):
            await held.msg.ack()
            return
        del self._attempts[key]
        await bury(self._bus, held.msg, error.verdict, f"{held.task.symbol}: {error.message}", held.task)
        await self._end(held, "failed", reason=str(error.verdict), message=error.message, called_at=called_at, calls=calls)

    async def _hand_over(self, held: Held) -> bool:
        """Give the task to the next provider of the same kind of series; False when there is none."""
        tried = [*held.task.tried, self._name]
        here = self._work.account
        alike = {
            name: account
            for name, account in self._work.accounts.items()
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

    async def _end(self, held: Held, outcome: Outcome, **details: object) -> None:
        self._attempts.pop((held.task.run_id, held.msg.subject), None)
        await report_result(self._bus, held.task, outcome, **details)
        await held.msg.ack()

    async def _finish_calls(self) -> None:
        if not self._calls:
            return
        _, late = await asyncio.wait(self._calls, timeout=GRACE_S)
        for call in late:
            call.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _serves(event: Served, held: Held, provider: str) -> bool:
    task = held.task
    return event.provider == provider and event.fetched_at >= task.wanted_at and event.answers(task.start, task.end)


async def _sleep_or_stop(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _acquire_or_stop(stop: asyncio.Event, acquiring: Awaitable[None]) -> bool:
    """Whether the pace allows the next call; False when stopped first."""
    getting: asyncio.Future[Any] = asyncio.ensure_future(acquiring)
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([getting, stopping], return_when=asyncio.FIRST_COMPLETED)
        return getting.done()
    finally:
        for waiting in (getting, stopping):
            waiting.cancel()
        await asyncio.gather(getting, stopping, return_exceptions=True)
