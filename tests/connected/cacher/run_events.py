"""Run events as a fetcher publishes them."""

from datetime import UTC, datetime, timedelta

import msgspec

from contracts.run_events import Outcome, RunPlanned, RunResult

SOON = datetime.now(UTC) + timedelta(hours=1)


WANTED = datetime(2024, 3, 4, 12, tzinfo=UTC)


TASK = "task.yahoo.live.bars.1d.latest.AAPL"


def planned(*symbols: str, run_id: str = "1", request_id: str = "r", **other: object) -> RunPlanned:
    plan = RunPlanned(
        run_id=run_id,
        request_id=request_id,
        lane="live",
        dataset="bars",
        requested_at=WANTED,
        wanted_at=WANTED,
        deadline_at=SOON,
        planned=len(symbols),
        symbols=list(symbols),
    )
    return msgspec.structs.replace(plan, **other)


def result(
    symbol: str = "AAPL", outcome: Outcome = "refreshed", *, second: int = 0, run_id: str = "1", **other: object
) -> RunResult:
    at = WANTED + timedelta(seconds=second)
    fields: dict[str, object] = {"request_id": "r", "provider": "yahoo", "task": TASK, "called_at": at, "calls": 1, "rows": 5}
    return RunResult(run_id=run_id, symbol=symbol, outcome=outcome, wanted_at=WANTED, at=at, **(fields | other))  # type: ignore[arg-type]
