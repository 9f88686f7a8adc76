"""Who serves each symbol of a plan: a task for a provider, or the result of a symbol that nobody is asked for now."""

from collections.abc import Sequence

from contracts.fetch_task import FetchTask
from contracts.run_events import RunResult
from services.fetcher.choose_provider import Asleep, Choice, Chosen
from services.fetcher.plan import Plan
from services.fetcher.symbol_health import why_asleep

# The reason that is told where a provider rests for longer than the wish lasts.
REASONS = {
    "quota_spent": "no_budget",
    "breaker_open": "breaker",
    "half_open": "breaker",
    "cooling_down": "rate_limited",
    "stopped": "unauthorized",
}


def share_out(plan: Plan, choice: Choice, symbols: Sequence[str]) -> tuple[list[FetchTask], list[RunResult]]:
    """The tasks of these symbols, and the results of those that nobody is asked for now."""
    tasks: list[FetchTask] = []
    skipped: list[RunResult] = []
    for symbol in symbols:
        # A person who asks by hand may know better than our last probe, and waits for whatever rests.
        match choice.of(symbol, always=plan.lane == "manual"):
            case Chosen(standing=standing) as chosen if (
                plan.lane != "manual" and standing.until and standing.until >= plan.expires_at
            ):
                skipped.append(_too_late(plan, symbol, chosen))
            case Chosen(account, instead_of, reason):
                tasks.append(plan.task(account.name, symbol, instead_of, reason))
            case Asleep(health):
                why = health.verdict or health.state
                skipped.append(plan.result(symbol, "skipped", why, provider=health.provider, message=why_asleep(health)))
    return tasks, skipped


def _too_late(plan: Plan, symbol: str, chosen: Chosen) -> RunResult:
    name, state = chosen.account.name, chosen.standing.rests or ""
    message = f"{name} rests until {chosen.standing.until:%Y-%m-%dT%H:%M:%SZ}, which is later than this is worth a call"
    return plan.result(symbol, "skipped", REASONS.get(state, state), provider=name, message=message)
