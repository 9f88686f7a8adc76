"""The work on one provider: pace, tasks, permit, call, events, results, acks; in this order nothing is lost or paid twice."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
import structlog
from prometheus_client import Counter as Metric
from prometheus_client import Histogram

from services.fetcher.accounts import Account
from services.fetcher.ask_provider import AdapterFaultError, ask_provider
from services.fetcher.lanes import Held, Lanes
from services.fetcher.ledger import Ledger
from services.fetcher.provider import Answer, Call, Http, ProviderError, Verdict
from services.fetcher.reports import bury
from services.fetcher.rest import Rest
from services.fetcher.served import last_served
from services.fetcher.settle import Settlement
from services.fetcher.stopping import or_stop, sleep_or_stop
from services.fetcher.verdicts import MAX_NAK_S
from services.runtime.bus import Bus
from services.runtime.puller import kept_alive

GRACE_S = 2.0
IDLE_S = 5.0
CALLS = Metric("quotebus_provider_calls_total", "Permits spent on calls.", ["provider"])
CALL_SECONDS = Histogram("quotebus_provider_call_seconds", "Duration of a call, all its requests.", ["provider", "verdict"])

log = structlog.get_logger()
Permit = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Work:
    """What a worker works with. `http` makes a client for one call, given how to take its permits and to keep its pace."""

    bus: Bus
    account: Account
    accounts: Mapping[str, Account]
    ledger: Ledger
    rest: Rest
    http: Callable[[Permit, Permit], Http]
    ack_wait_s: float
    calls_at_once: int


class Worker:
    """Makes the calls of one provider."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._bus = work.bus
        self._name = work.account.name
        self._settle = Settlement(work.bus, self._name, work.accounts, work.rest)
        self._pace = work.account.pace()
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
            await asyncio.gather(lanes.close(), self._finish_calls())

    async def _until_stopped(self, stop: asyncio.Event, lanes: Lanes) -> None:
        slots = asyncio.Semaphore(self._work.calls_at_once)
        size = max(self._work.account.symbols_per_call(dataset) for dataset in self._work.account.profile.offers)
        paced = self._pace is None
        while not stop.is_set():
            if (rest_s := self._work.rest.remaining_s()) > 0:
                if rest_s > MAX_NAK_S:
                    await lanes.give_back()
                await sleep_or_stop(stop, min(rest_s, 1.0))
                continue
            # The pace is kept before tasks are pulled: a task in hand is a task that no other replica can take.
            if self._pace and not paced:
                await or_stop(stop, self._pace.acquire())
                paced = True
                continue
            await or_stop(stop, slots.acquire())
            if chosen := await or_stop(stop, lanes.next_call(size, IDLE_S)):
                paced = self._pace is None
                self._start(chosen, slots, lanes)
            else:
                slots.release()

    def _start(self, chosen: Sequence[Held], slots: asyncio.Semaphore, lanes: Lanes) -> None:
        def ended(call: asyncio.Task[None]) -> None:
            self._calls.discard(call)
            lanes.call_ended(chosen)
            slots.release()

        call = asyncio.create_task(self.on_fetch_tasks(chosen))
        self._calls.add(call)
        call.add_done_callback(ended)

    async def on_fetch_tasks(self, chosen: Sequence[Held]) -> None:
        """Serve tasks that share a call. Each is acknowledged, sent back or given up on by itself."""
        try:
            async with kept_alive([held.msg for held in chosen], self._work.ack_wait_s):
                wanted = await self._still_wanted(chosen)
                limit = self._work.account.symbols_per_call(chosen[0].task.dataset)
                for i in range(0, len(wanted), limit):
                    await self._call(wanted[i : i + limit])
        except asyncio.CancelledError:
            await _send_back(chosen, None)
            raise
        except Exception as error:
            # The bus refuses what must be told, say. The events already published will serve the tasks when they come again.
            log.warning("tasks_sent_back", provider=self._name, tasks=len(chosen), error=repr(error))
            await _send_back(chosen, 2)

    async def _still_wanted(self, chosen: Sequence[Held]) -> list[Held]:
        """Those whose time is not up and that no call since `wanted_at` has answered; the others end here, at no call."""
        first = chosen[0].task
        served = await last_served(self._bus, first.dataset, first.timeframe, [held.task.symbol for held in chosen])
        wanted = []
        for held in chosen:
            task, event = held.task, served.get(held.task.symbol)
            if task.expires_at <= datetime.now(UTC):
                await bury(self._bus, held.msg, "expired", f"not fetched before {task.expires_at.isoformat()}", task)
                await self._settle.end(held, "expired", reason="expired")
            elif event and event.serves(task):
                await self._settle.end(held, "merged", reason="served", called_at=event.fetched_at)
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
            # A call that several symbols shared is counted with the first.
            first, *others = chosen
            failing = [self._settle.fail(held, error, called_at) for held in others]
            await asyncio.gather(self._settle.fail(first, error, called_at, calls), *failing)
            return
        await self._work.rest.answered()
        events = defaultdict(list)
        for event in answer.events:
            events[event.symbol].append(event)
        missing = ProviderError(Verdict.NOT_FOUND, f"{self._name} left it out of its answer")
        async with asyncio.TaskGroup() as group:
            for held in chosen:
                share, calls = calls, 0
                symbol = held.task.symbol
                if symbol in events:
                    group.create_task(self._settle.publish(held, events[symbol], called_at, share))
                else:
                    group.create_task(self._settle.fail(held, answer.failed.get(symbol, missing), called_at, share))

    async def _ask(self, call: Call, called_at: datetime) -> tuple[Answer, ProviderError | None, int]:
        """The answer or the error of the call as a whole (a fault of the adapter is one too), and the permits it took."""
        clock = asyncio.get_running_loop().time
        started, verdict, spent = clock(), "ok", 0

        async def permit(cost: int) -> None:
            nonlocal spent
            await self._work.ledger.permit(cost)
            spent += cost

        async def pace(_cost: int) -> None:
            # The worker paced the first request; those for further pages and windows of the same call wait their turn here.
            if spent and self._pace:
                await self._pace.acquire()

        account = self._work.account
        http = self._work.http(permit, pace)
        try:
            return await ask_provider(account.provider, call, http, called_at, account.trust.redact), None, spent
        except ProviderError as error:
            verdict = error.verdict
            if isinstance(error, AdapterFaultError):
                log.exception("adapter_failed", provider=self._name, dataset=call.dataset, exc_info=error.__cause__)
            return Answer(), error, spent
        finally:
            CALL_SECONDS.labels(self._name, verdict).observe(clock() - started)

    async def _finish_calls(self) -> None:
        if not self._calls:
            return
        _, late = await asyncio.wait(self._calls, timeout=GRACE_S)
        for call in late:
            call.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _send_back(chosen: Sequence[Held], delay_s: float | None) -> None:
    for held in chosen:
        if not held.msg.is_acked:
            with suppress(nats.errors.Error):
                await held.msg.nak(delay=delay_s)
