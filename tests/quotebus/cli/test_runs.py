"""How far runs have come, from events in whatever order."""

from datetime import UTC, datetime
from itertools import permutations
from typing import Any

from contracts.run_events import RunFinished, RunPlanned, RunResult
from quotebus.cli.runs import RunTracker

AT = datetime(2024, 3, 4, 21, tzinfo=UTC)
PLANNED = RunPlanned(
    run_id="7", request_id="r", job="eod", lane="live", dataset="quote", requested_at=AT, wanted_at=AT, deadline_at=AT, planned=3,
    symbols=["AAPL", "BRK.B", "MSFT"],
)  # fmt: skip
FINISHED = RunFinished(
    run_id="7", request_id="r", job="eod", planned=3, counts={"refreshed": 3}, calls={}, started_at=AT, finished_at=AT
)


def result(symbol: str, outcome: Any = "refreshed", called_at: datetime | None = None) -> RunResult:
    return RunResult(
        run_id="7", request_id="r", job="eod", symbol=symbol, outcome=outcome, wanted_at=AT, called_at=called_at, at=AT
    )


def test_a_run_counts_each_symbol_once_in_whatever_order_its_events_come() -> None:
    for order in permutations([PLANNED, result("AAPL"), result("AAPL"), result("GONE", "failed")]):
        going = RunTracker()
        runs = [going.apply(event) for event in order]
        assert (runs[-1].planned, runs[-1].done, runs[-1].counts) == (3, 2, {"refreshed": 1, "failed": 1})


def test_a_merged_symbol_is_done_when_it_has_a_call_and_not_before() -> None:
    going = RunTracker()
    assert going.apply(result("AAPL", "merged")).done == 0
    assert going.apply(result("AAPL", "merged", called_at=AT)).done == 1


def test_a_run_that_is_over_goes_on_no_more_whatever_comes_late() -> None:
    going = RunTracker()
    for event in (PLANNED, FINISHED, result("AAPL"), PLANNED):
        run = going.apply(event)
    assert run is None
    assert going.runs == {}
