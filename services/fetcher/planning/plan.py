"""Plan of a refresh request: its symbols, the provider each is assigned to, and the tasks that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from nats.aio.msg import Msg

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import LANES, Lane, decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import Outcome, RunPlanned, RunResult
from services.fetcher.routing.router import NoHealthyProvider, ProviderSelection, SelectedProvider
from services.fetcher.routing.symbol_health import describe_health
from services.runtime.bus import MESSAGE_ID

SYMBOLS_PER_PART = 2000

# The reason that is told where a provider rests for longer than the wish lasts.
REASONS = {
    "quota_spent": "no_budget",
    "breaker_open": "breaker",
    "half_open": "breaker",
    "cooling_down": "rate_limited",
    "stopped": "unauthorized",
}


@dataclass(frozen=True)
class RequestPlan:
    """A request as it was understood. `run_id`: its sequence on REFRESH."""

    request: RefreshRequest
    run_id: str
    request_id: str
    lane: Lane
    requested_at: datetime
    wanted_at: datetime
    expires_at: datetime

    def task(self, provider: str, symbol: str, fallback_from: Sequence[str] = (), fallback_reason: str | None = None) -> FetchTask:
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
            fallback_from=list(fallback_from),
            fallback_reason=fallback_reason,
        )

    def result(self, symbol: str, outcome: Outcome, reason: str, **details: Any) -> RunResult:
        return RunResult(
            run_id=self.run_id,
            request_id=self.request_id,
            job=self.request.job,
            symbol=symbol,
            outcome=outcome,
            reason=reason,
            wanted_at=self.wanted_at,
            at=datetime.now(UTC),
            **details,
        )

    def planned_events(self, symbols: Sequence[str], refused: str | None = None) -> list[RunPlanned]:
        """`RunPlanned` events, published before the tasks, in as many parts as needed; `refused`: why there are no tasks."""
        parts = [symbols[i : i + SYMBOLS_PER_PART] for i in range(0, len(symbols), SYMBOLS_PER_PART)] or [[]]
        probe = self.task("", "X")
        return [
            RunPlanned(
                run_id=self.run_id,
                request_id=self.request_id,
                job=self.request.job,
                lane=self.lane,
                dataset=probe.dataset,
                timeframe=probe.timeframe,
                slot_at=self.request.slot_at,
                requested_at=self.requested_at,
                wanted_at=self.wanted_at,
                deadline_at=self.expires_at,
                start=self.request.start,
                end=self.request.end,
                provider=self.request.provider,
                missed_slots=self.request.missed_slots,
                planned=len(symbols),
                part=number,
                parts=len(parts),
                symbols=[symbol[:64] for symbol in part],
                refused=refused,
            )
            for number, part in enumerate(parts, 1)
        ]


def parse_request(msg: Msg, expiry: timedelta) -> RequestPlan:
    """The plan of a request message.

    Raises:
        ValueError: the lane or a field is wrong; the text names it. (msgspec's errors are ValueErrors.)
    """
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
    return RequestPlan(
        request=request,
        run_id=str(meta.sequence.stream),
        request_id=identity,
        lane=lane,
        requested_at=accepted,
        wanted_at=request.wanted_at or accepted,
        expires_at=request.expires_at or accepted + expiry,
    )


def split_valid(symbols: Sequence[str]) -> tuple[list[str], dict[str, str]]:
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


def assign_providers(
    plan: RequestPlan, choice: ProviderSelection, symbols: Sequence[str]
) -> tuple[list[FetchTask], list[RunResult]]:
    """The tasks of these symbols, and the results of those that nobody is asked for now."""
    tasks: list[FetchTask] = []
    skipped: list[RunResult] = []
    for symbol in symbols:
        # A person who asks by hand may know better than our last probe, and waits for whatever rests.
        match choice.of(symbol, always=plan.lane == "manual"):
            case SelectedProvider(availability=standing) as chosen if (
                plan.lane != "manual" and standing.until and standing.until >= plan.expires_at
            ):
                skipped.append(_expired_result(plan, symbol, chosen))
            case SelectedProvider(account, instead_of, reason):
                tasks.append(plan.task(account.name, symbol, instead_of, reason))
            case NoHealthyProvider(health):
                why = health.verdict or health.state
                skipped.append(plan.result(symbol, "skipped", why, provider=health.provider, message=describe_health(health)))
    return tasks, skipped


def _expired_result(plan: RequestPlan, symbol: str, chosen: SelectedProvider) -> RunResult:
    name, state = chosen.account.name, chosen.availability.blocked_state or ""
    message = f"{name} rests until {chosen.availability.until:%Y-%m-%dT%H:%M:%SZ}, which is later than this is worth a call"
    return plan.result(symbol, "skipped", REASONS.get(state, state), provider=name, message=message)
