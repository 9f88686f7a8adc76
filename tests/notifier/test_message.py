"""What a notification says."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from contracts.run_events import RunFinished, RunMissed
from services.notifier.message import notification_of

SLOT = datetime(2024, 3, 4, 21, tzinfo=UTC)


def finished(**terms: Any) -> RunFinished:
    known: dict[str, Any] = {
        "run_id": "7", "request_id": "r", "job": "eod", "slot_at": SLOT, "planned": 3, "counts": {"refreshed": 3},
        "calls": {"tiingo": 3}, "started_at": SLOT + timedelta(seconds=2), "finished_at": SLOT + timedelta(seconds=5),
        "dataset": "bars", "timeframe": "1d",
    }  # fmt: skip
    return RunFinished(**(known | terms))


def test_a_run_in_which_all_went_well_says_so_in_its_title() -> None:
    notice = notification_of(finished())
    assert (notice.event, notice.job, notice.title) == ("finished", "eod", "eod: 3 symbols, all well")
    assert "3.0 s, asked 2.0 s after its slot" in notice.text


@pytest.mark.parametrize("outcome", ["failed", "expired"])
def test_a_run_with_failures_names_symbols_reasons_and_what_to_type(outcome: Any) -> None:
    run = finished(counts={"refreshed": 1, outcome: 2}, reasons={outcome: {"timeout": 2}}, failed_symbols=["AAPL"], missed_slots=4)
    notice = notification_of(run)
    assert (notice.event, notice.title) == ("failed", "eod: 2 of 3 symbols failed")
    for said in (f"{outcome}: 2 timeout.", "AAPL and 1 more", "quotebus runs retry 7", "nobody asked: 4"):
        assert said in notice.text


@pytest.mark.parametrize("symbols", [0, 2])
def test_a_run_that_was_refused_has_failed_even_without_symbols(symbols: int) -> None:
    counts: Any = {"failed": symbols} if symbols else {}
    notice = notification_of(finished(planned=symbols, counts=counts, refused="universe activ is not defined"))
    assert (notice.event, notice.title) == ("failed", "eod: refused")
    assert "Nothing was asked: universe activ is not defined" in notice.text


def test_a_run_of_an_empty_universe_has_not_failed() -> None:
    assert notification_of(finished(planned=0, counts={})).event == "finished"


def test_missed_slots_are_one_notice_with_the_newest_of_them() -> None:
    slots = [SLOT + timedelta(hours=hour) for hour in range(9)]
    notice = notification_of(RunMissed(job="eod", reason="too_late", missed=40, slots=slots, at=SLOT + timedelta(days=1)))
    assert (notice.event, notice.title) == ("missed", "eod: 40 slots missed")
    assert "2024-03-05 05:00:00Z" in notice.text
    assert "2024-03-04 21:00:00Z" not in notice.text


def test_the_body_for_programs_is_the_event_under_its_occasion() -> None:
    body = msgspec.json.decode(notification_of(finished()).body)
    assert (body["type"], body["data"]["type"], body["data"]["run_id"]) == ("run.finished", "run_finished.v1", "7")
    assert body["timestamp"] == "2024-03-04T21:00:05Z"


def test_the_same_event_has_the_same_id_and_another_has_another() -> None:
    same = notification_of(finished()).id
    assert notification_of(msgspec.json.decode(msgspec.json.encode(finished()), type=RunFinished)).id == same
    assert notification_of(finished(run_id="8")).id != same
    # A request's id is anybody's text.
    assert notification_of(finished(request_id="a\r\nb: ç")).id.isascii()
