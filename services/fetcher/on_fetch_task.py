"""Worker of one API key: pulls tasks by lane, makes the call they share, and ends each of them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter as Metric

from contracts.message import LANES
from services.fetcher.accounts import ApiKey, ProviderAccount
from services.fetcher.calls.provider_call import HttpFactory, ProviderClient
from services.fetcher.circuit.breaker import KeyCircuit, ProviderCircuit, QuotaSpentError
from services.fetcher.circuit.key_state import KeyStateStore
from services.fetcher.last_event import satisfying_events
from services.fetcher.provider import FetchCall
from services.fetcher.quota.ledger import QuotaLedger
from services.fetcher.quota.observed_limits import ObservedLimits
from services.fetcher.quota.pacer import Pacer
from services.fetcher.retry_policy import MAX_NAK_S
from services.fetcher.routing.router import Router
from services.fetcher.routing.symbol_health import SymbolHealthStore, series_of
from services.fetcher.tasks.key_assignment import KeyAssignment, SymbolQuota
from services.fetcher.tasks.outcome import TaskOutcomes
from services.fetcher.tasks.task_queue import PendingTask, TaskQueue, nak
from services.runtime.bus import Bus
from services.runtime.consumer import FailurePolicy
from services.runtime.faults import describe
from services.runtime.puller import heartbeat
from services.runtime.service import sleep_until_stopped, until_stopped
from services.runtime.settings import FIRST_KEY, FetcherSettings

GRACE_S = 2.0
IDLE_S = 5.0
AFTER_A_FAULT_S = 1.0
STATES_AGE_S = 1.0
LINGER = 0.1  # of the time from one call to the next
CALLS = Metric("quotebus_provider_calls_total", "Permits spent on calls.", ["provider"])

log = structlog.get_logger()


@dataclass(frozen=True)
class WorkerDeps:
    """Dependencies of a worker. `circuit` and `symbols` cover all keys of the provider."""

    bus: Bus
    account: ProviderAccount
    caller: ProviderClient
    circuit: ProviderCircuit
    symbols: SymbolQuota
    chooser: Router
    states: SymbolHealthStore
    failures: FailurePolicy
    ack_wait_s: float
    calls_at_once: int


class Worker:
    """Makes the calls with one key. Workers of a provider's other keys pull the same tasks; `others` are this process's, by key."""

    def __init__(self, work: WorkerDeps) -> None:
        self._work = work
        self._bus = work.bus
        self._name = work.account.name
        self.key = work.caller.key.name
        self.name = self._name if self.key == FIRST_KEY else f"{self._name} {self.key}"
        self.others: Mapping[str, Worker] = {}
        self._outcomes = TaskOutcomes(work.bus, work.failures, work.account.profile, work.circuit, work.chooser, work.states)
        # Where nothing spaces the calls out, going to the server for one task at a time would.
        at_once = 1 if work.caller.pace.interval_s else work.calls_at_once
        self._tasks = TaskQueue(work.bus, self._name, work.failures, work.ack_wait_s, at_once)
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until stopped; then finish the calls under way if they end soon, and give everything else back."""
        await until_stopped(stop, self._work.caller.ledger.wait_ready())
        await self._work.caller.circuit.reset_on_start()
        alive = asyncio.create_task(self._tasks.keep_alive())
        try:
            while not stop.is_set():
                await self._loop_safely(stop)
        finally:
            alive.cancel()
            await asyncio.gather(self._tasks.close(), self._finish_calls())

    async def _loop_safely(self, stop: asyncio.Event) -> None:
        try:
            await self._loop(stop)
        except Exception as error:  # a bug in choosing what to call: the other providers' work goes on
            log.exception("worker_failed", provider=self._name, error=describe(error))
            await sleep_until_stopped(stop, AFTER_A_FAULT_S)

    async def _loop(self, stop: asyncio.Event) -> None:
        slots = asyncio.Semaphore(self._work.calls_at_once)
        limit = self._work.account.symbols_per_call
        circuit, paced = self._work.caller.circuit, False
        # Where calls are scarce a half empty one is waste; where they are not, waiting would be.
        linger_s = LINGER * self._work.caller.pace.interval_s
        while not stop.is_set():
            if closed := [lane for lane in LANES if circuit.retry_in_s(lane) > MAX_NAK_S]:
                await self._tasks.nak_all(closed)
            if not circuit.allowed_lanes():
                await sleep_until_stopped(stop, min(1.0, *(circuit.retry_in_s(lane) for lane in LANES)))
                continue
            # The pace is kept before tasks are pulled: a task in hand is a task that no other replica can take.
            if not paced:
                await until_stopped(stop, self._work.caller.wait_for_pace())
                paced = True
                continue
            await until_stopped(stop, slots.acquire())
            # Asked again: a call that ended meanwhile may have been refused.
            ready = bool(circuit.allowed_lanes())
            chosen = (
                await until_stopped(stop, self._tasks.next_call(limit, IDLE_S, circuit.allowed_lanes, linger_s)) if ready else None
            )
            if chosen and not await circuit.try_acquire():
                # Somebody's trial is under way, and these have to wait for what becomes of it.
                self._tasks.requeue(chosen)
                slots.release()
                await sleep_until_stopped(stop, 0.1)
            elif chosen:
                paced = False
                self._start(chosen, slots, probe=circuit.probing)
            else:
                slots.release()

    def _start(self, chosen: Sequence[PendingTask], slots: asyncio.Semaphore, *, probe: bool) -> None:
        def ended(call: asyncio.Task[None]) -> None:
            self._calls.discard(call)
            self._tasks.call_ended(chosen)
            slots.release()

        call = asyncio.create_task(self.on_fetch_tasks(chosen, probe=probe))
        self._calls.add(call)
        call.add_done_callback(ended)

    async def on_fetch_tasks(self, chosen: Sequence[PendingTask], *, probe: bool = False) -> None:
        """Serve tasks that share a call. Each is acknowledged, sent back or given up on by itself."""
        try:
            async with heartbeat([held.msg for held in chosen], self._work.ack_wait_s):
                if wanted := await self._assign_keys(await self._drop_served(chosen)):
                    await self._call(wanted)
        except asyncio.CancelledError:
            await nak(chosen, None)
            raise
        except Exception as error:
            # A bug, or the bus is away. The events already published will serve the tasks when they come again.
            for held in chosen:
                if not held.msg.is_acked:
                    await self._outcomes.broken(held, error)
        finally:
            if probe:
                await self._work.caller.circuit.release_probe()

    async def _drop_served(self, chosen: Sequence[PendingTask]) -> list[PendingTask]:
        """Those whose time is not up and that no call since `wanted_at` has answered; the others end here, at no call."""
        states = self._work.states
        # Before a probe all must be known that others know: they may have made it just now.
        await states.refresh(0.0 if any(states.is_probe(series_of(held.task)) for held in chosen) else STATES_AGE_S)
        served = await satisfying_events(self._bus, [held.task for held in chosen])
        wanted = []
        for held in chosen:
            task, event = held.task, served.get(held.task.symbol)
            if task.expires_at <= datetime.now(UTC):
                await held.msg.ack()  # the cacher ends its run at the same deadline
            elif event:
                await self._outcomes.finish(held, "merged", reason="served", called_at=event.fetched_at)
            elif task.lane != "manual" and (health := states.suspended(series_of(task))):
                await self._outcomes.skip(held, health)
            else:
                wanted.append(held)
        return wanted

    async def _assign_keys(self, chosen: Sequence[PendingTask]) -> Sequence[PendingTask]:
        """Those whose symbol this key may ask for this month; the others go to another key, or end as the plan has it."""
        now = datetime.now(UTC)
        try:
            placed = await self._work.symbols.assign(self.key, chosen)
        except QuotaSpentError as error:
            await self._work.caller.circuit.record_failure(error, now)
            placed = KeyAssignment(refused=[(held, error) for held in chosen])
        for key, held in placed.elsewhere:
            self.others[key].take_over(held)
        await asyncio.gather(*(self._outcomes.fail(held, error, now) for held, error in placed.refused))
        return placed.own

    def take_over(self, held: PendingTask) -> None:
        """Serve a task that another key's worker has in hand."""
        self._tasks.enqueue(held)

    async def _call(self, chosen: Sequence[PendingTask]) -> None:
        task = chosen[0].task
        call = FetchCall(task.dataset, tuple(held.task.symbol for held in chosen), task.timeframe, task.start, task.end)
        # The most urgent of those who share a call has it made.
        lane = min((held.task.lane for held in chosen), key=LANES.index)
        called_at = datetime.now(UTC)
        answered = await self._work.caller.call(call, lane, called_at)
        CALLS.labels(self._name).inc(answered.permits)
        await self._outcomes.finish_call(chosen, answered, called_at)

    async def _finish_calls(self) -> None:
        if not self._calls:
            return
        _, late = await asyncio.wait(self._calls, timeout=GRACE_S)
        for call in late:
            call.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def provider_circuit(keys: KeyStateStore, account: ProviderAccount, settings: FetcherSettings) -> ProviderCircuit:
    """Build the circuit of a provider over those of its API keys."""
    failures, pause_s = settings.breaker_failures, settings.breaker_pause_s
    return ProviderCircuit({key.name: KeyCircuit(keys, account.name, key.name, failures, pause_s) for key in account.keys})


@dataclass(frozen=True)
class WorkerFactory:
    """Builds the workers of all providers on shared dependencies. `keys`: states of the keys; `symbols`: health of the symbols."""

    bus: Bus
    keys: KeyStateStore
    symbols: SymbolHealthStore
    chooser: Router
    failures: FailurePolicy
    settings: FetcherSettings

    def workers(self, account: ProviderAccount, circuit: ProviderCircuit, http: HttpFactory) -> list[Worker]:
        """One worker a key; each knows the others."""
        symbols = SymbolQuota(self.bus, account.keys, circuit.keys)
        workers = {key.name: Worker(self._work(account, key, circuit, symbols, http)) for key in account.keys}
        for key, worker in workers.items():
            worker.others = {name: other for name, other in workers.items() if name != key}
        return list(workers.values())

    def _work(
        self, account: ProviderAccount, key: ApiKey, circuit: ProviderCircuit, symbols: SymbolQuota, http: HttpFactory
    ) -> WorkerDeps:
        pace = Pacer(key, account.settings.burst)
        return WorkerDeps(
            bus=self.bus,
            account=account,
            caller=ProviderClient(
                account=account,
                key=key,
                ledger=QuotaLedger(self.bus, key.windows, pace),
                pace=pace,
                circuit=circuit.keys[key.name],
                learner=ObservedLimits(self.bus, self.keys, account.name, key),
                http=http,
            ),
            circuit=circuit,
            symbols=symbols,
            chooser=self.chooser,
            states=self.symbols,
            failures=self.failures,
            ack_wait_s=self.settings.ack_wait_s,
            calls_at_once=self.settings.calls_at_once,
        )
