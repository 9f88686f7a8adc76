"""The plan: a request becomes one task per symbol, or a reason why not."""

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.js.errors import APIError

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, Lane, decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import Outcome, RunPlanned, RunResult
from services.fetcher.accounts import Account
from services.fetcher.ledger import WINDOW_FULL
from services.fetcher.reports import bury, publish_result
from services.fetcher.served import last_served
from services.fetcher.twins import Twins
from services.fetcher.universe import Universe, UniverseUnavailableError
from services.runtime.bus import MESSAGE_ID, Bus
from services.runtime.puller import Puller, kept_alive
from services.runtime.topology import PLANNER

PUBLISHES_AT_ONCE = 128
SYMBOLS_PER_PART = 2000

log = structlog.get_logger()


class NoProviderError(Exception):
    """No provider can do what the request asks; the text says why."""


class StreamFullError(Exception):
    """TASKS takes no more for now; the request waits."""


@dataclass(frozen=True)
class Plan:
    """A request as it was understood. `run_id`: its sequence on REFRESH."""

    request: RefreshRequest
    run_id: str
    request_id: str
    lane: Lane
    requested_at: datetime
    wanted_at: datetime
    expires_at: datetime

    def task(self, provider: str, symbol: str) -> FetchTask:
        r = self.request
        timeframe = r.timeframe or ("1d" if r.dataset == "bars" else None)
        return FetchTask(
            provider=provider,
            lane=self.lane,
            symbol=symbol,
            dataset=r.dataset,
            timeframe=timeframe,
            start=r.start,
            end=r.end,
            wanted_at=self.wanted_at,
            expires_at=self.expires_at,
            request_id=self.request_id,
            run_id=self.run_id,
            job=r.job,
        )

    def result(self, symbol: str, outcome: Outcome, reason: str, **details: object) -> RunResult:
        return RunResult(
            run_id=self.run_id,
            request_id=self.request_id,
            job=self.request.job,
            symbol=symbol,
            outcome=outcome,
            reason=reason,
            wanted_at=self.wanted_at,
            at=datetime.now(UTC),
            **details,  # type: ignore[arg-type]
        )


def choose(accounts: Mapping[str, Account], task: FetchTask, asked: str | None) -> Account:
    """The provider for a task: the one asked for, else the best that offers it; a made-up market only when there is no real one.

    Raises:
        NoProviderError: none fits; the text names the nearest or what is offered.
    """
    what = f"{task.timeframe} bars" if task.dataset == "bars" else task.dataset
    if asked is not None:
        if asked not in accounts:
            near = difflib.get_close_matches(asked, accounts, 1)
            hint = f"did you mean {near[0]}?" if near else f"enabled are {', '.join(sorted(accounts)) or 'none'}"
            raise NoProviderError(f"provider: {asked!r} is not enabled; {hint}")
        if not accounts[asked].offers(task.dataset, task.timeframe):
            raise NoProviderError(f"provider: {asked} has no {what}")
        return accounts[asked]
    able = [a for a in accounts.values() if a.offers(task.dataset, task.timeframe) and a.name not in task.tried]
    if not able:
        raise NoProviderError(f"no enabled provider has {what}; enable one in [providers]")
    return min(able, key=lambda account: (not account.profile.real, account.settings.priority, account.name))


class Planner:
    """Reads requests one by one and publishes their tasks."""

    def __init__(self, bus: Bus, accounts: Mapping[str, Account], universe: Universe, settings_expiry_s: float) -> None:
        self._bus = bus
        self._accounts = accounts
        self._universe = universe
        self._expiry = timedelta(seconds=settings_expiry_s)
        self._twins = Twins(bus)
        self._gate = asyncio.Semaphore(PUBLISHES_AT_ONCE)

    async def run(self, puller: Puller, stop: asyncio.Event, ack_wait_s: float) -> None:
        """Plan until stopped; a request in the middle is finished first."""
        looking_after = asyncio.create_task(self._twins.run())
        try:
            while not stop.is_set():
                for msg in await puller.pull(1, 1.0):
                    async with kept_alive([msg], ack_wait_s):
                        await self.on_refresh_request(msg)
        finally:
            looking_after.cancel()
            await puller.close()

    async def on_refresh_request(self, msg: Msg) -> None:
        """Plan one request. Whatever happens it ends acknowledged, or back on the stream to be tried again."""
        try:
            plan = self._understand(msg)
        except (msgspec.MsgspecError, ValueError) as error:
            await bury(self._bus, msg, "malformed", f"{msg.subject}: {error}")
            await msg.ack()
            return
        try:
            await self._plan(msg, plan)
        except NoProviderError as error:
            await bury(self._bus, msg, "bad_request", f"{msg.subject}: {error}")
            await self._report_all(plan, str(error))
        except (UniverseUnavailableError, StreamFullError) as error:
            log.warning("request_waits", request_id=plan.request_id, error=str(error))
            await msg.nak(delay=5)
            return
        await msg.ack()

    def _understand(self, msg: Msg) -> Plan:
        lane, job = subjects.parse_refresh_request(msg.subject)
        if lane not in LANES:
            raise ValueError(f"lane: {lane!r} is none of {', '.join(LANES)}")
        request = decode(msg.data or b"{}", RefreshRequest)
        if request.job != job:
            # The subject decides: a person's request must not pass for a job's.
            request = msgspec.structs.replace(request, job=job)
        meta = msg.metadata
        accepted = meta.timestamp.astimezone(UTC)
        identity = request.request_id or (msg.headers or {}).get(MESSAGE_ID) or f"r{meta.sequence.stream}"
        return Plan(
            request=request,
            run_id=str(meta.sequence.stream),
            request_id=identity,
            lane=lane,
            requested_at=accepted,
            wanted_at=request.wanted_at or accepted,
            expires_at=request.expires_at or accepted + self._expiry,
        )

    async def _plan(self, msg: Msg, plan: Plan) -> None:
        asked = await self._universe.symbols(plan.request)
        good, bad = _by_validity(asked)
        if not good and not bad:
            log.info("nothing_to_plan", request_id=plan.request_id, universe=plan.request.universe)
        probe = plan.task("", good[0] if good else "X")
        account = choose(self._accounts, probe, plan.request.provider)
        fresh = await self._fresh(plan, probe, good)
        await self._announce(plan, asked)
        for symbol, why in bad.items():
            await bury(self._bus, msg, "bad_request", f"symbols: {why}")
            await publish_result(self._bus, plan.result(symbol[:64], "failed", "bad_request", message=why))
        for symbol in fresh:
            await publish_result(self._bus, plan.result(symbol, "skipped", "fresh"))
        skipped = set(fresh)
        tasks = [plan.task(account.name, symbol) for symbol in good if symbol not in skipped]
        outcomes = await asyncio.gather(*(self._publish(plan, task) for task in tasks), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        log.info(
            "planned", request_id=plan.request_id, run_id=plan.run_id, job=plan.request.job, lane=plan.lane, provider=account.name,
            dataset=probe.dataset, timeframe=probe.timeframe, tasks=outcomes.count("planned"), merged=outcomes.count("merged"),
            fresh=len(fresh), refused=len(bad),
        )  # fmt: skip

    async def _fresh(self, plan: Plan, probe: FetchTask, symbols: Sequence[str]) -> list[str]:
        """Those fetched less than `max_age_s` ago, by whichever provider would do."""
        if not plan.request.max_age_s:
            return []
        oldest = datetime.now(UTC) - timedelta(seconds=plan.request.max_age_s)
        served = await last_served(self._bus, probe.dataset, probe.timeframe, symbols)
        return [s for s, event in served.items() if event.fetched_at >= oldest and event.answers(probe.start, probe.end)]

    async def _announce(self, plan: Plan, symbols: Sequence[str]) -> None:
        parts = [symbols[i : i + SYMBOLS_PER_PART] for i in range(0, len(symbols), SYMBOLS_PER_PART)] or [[]]
        probe = plan.task("", "X")
        for number, part in enumerate(parts, 1):
            planned = RunPlanned(
                run_id=plan.run_id,
                request_id=plan.request_id,
                job=plan.request.job,
                lane=plan.lane,
                dataset=probe.dataset,
                timeframe=probe.timeframe,
                slot_at=plan.request.slot_at,
                requested_at=plan.requested_at,
                wanted_at=plan.wanted_at,
                deadline_at=plan.expires_at,
                missed_slots=plan.request.missed_slots,
                planned=len(symbols),
                part=number,
                parts=len(parts),
                symbols=[symbol[:64] for symbol in part],
            )
            identity = f"planned:{plan.run_id}:{plan.request_id}:{number}"
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

    async def _report_all(self, plan: Plan, why: str) -> None:
        try:
            symbols = await self._universe.symbols(plan.request)
        except UniverseUnavailableError:
            return
        await self._announce(plan, symbols)
        for symbol in symbols:
            await publish_result(self._bus, plan.result(symbol[:64], "failed", "bad_request", message=why))


def _by_validity(symbols: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The symbols that can be asked for, and why each other one cannot."""
    good: list[str] = []
    bad: dict[str, str] = {}
    for symbol in symbols:
        try:
            subjects.symbol_token(symbol)
        except ValueError as error:
            bad[symbol] = str(error)
        else:
            good.append(symbol)
    return good, bad


def planner_puller(bus: Bus) -> Puller:
    """The puller of the planner's durable."""
    return Puller(bus, subjects.REFRESH, PLANNER)
