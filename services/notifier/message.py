"""Notification of a run or of missed slots: one for all symbols together, for programs and for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

import msgspec

from contracts.run_events import RunFinished, RunMissed
from services.runtime.settings import Occasion

_SLOTS_NAMED = 5


@dataclass(frozen=True)
class Notification:
    """`id` is the same however often the same thing is told. `body`: JSON for a webhook; `title` and `text` for people."""

    id: str
    job: str | None
    event: Occasion
    title: str
    text: str
    body: bytes


def notification_of(event: RunFinished | RunMissed) -> Notification:
    """The notice of an event."""
    if isinstance(event, RunMissed):
        newest = max(event.slots, default=event.at)
        return _notification(event, "missed", f"missed {event.job} {newest.isoformat()}", event.at, _missed(event))
    occasion: Occasion = "finished" if event.state == "complete" else "failed"
    return _notification(event, occasion, f"finished {event.run_id} {event.request_id}", event.finished_at, _finished(event))


def _notification(
    event: RunFinished | RunMissed, occasion: Occasion, identity: str, at: datetime, words: tuple[str, str]
) -> Notification:
    # A request's id is anybody's text, and this one goes into a header.
    digest = blake2b(identity.encode(errors="replace"), digest_size=16).hexdigest()
    body = msgspec.json.encode({"type": f"run.{occasion}", "timestamp": at, "data": event})
    return Notification(f"msg_{digest}", event.job, occasion, *words, body)


def _finished(run: RunFinished) -> tuple[str, str]:
    name = run.job or "a request by hand"
    what = " ".join(filter(None, (run.dataset, run.timeframe)))
    took_s = (run.finished_at - run.started_at).total_seconds()
    late = f", asked {(run.started_at - run.slot_at).total_seconds():.1f} s after its slot" if run.slot_at else ""
    lines = [
        f"Run {run.run_id} of {what or 'prices'}: {_listed(run.counts) or 'nothing to do'}; {took_s:.1f} s{late}.",
        *(f"{outcome}: {_listed(reasons)}." for outcome, reasons in run.reasons.items()),
        f"Calls: {_listed(run.calls) or 'none'}.",
    ]
    if run.refused:
        lines.append(f"Nothing was asked: {run.refused}")
    if run.missed_slots:
        lines.append(f"Slots before it that nobody asked: {run.missed_slots}.")
    if run.failed:
        more = run.failed - len(run.failed_symbols)
        named = " ".join(run.failed_symbols) + (f" and {more} more" if more > 0 else "")
        lines += [
            f"Failed: {named}.",
            f"`quotebus runs {run.run_id}` shows each, `quotebus runs retry {run.run_id}` asks for them again.",
        ]
    return f"{name}: {_outcome_text(run)}", "\n".join(lines)


def _outcome_text(run: RunFinished) -> str:
    if run.refused:
        return "refused"
    return f"{run.failed} of {run.planned} symbols failed" if run.failed else f"{run.planned} symbols, all well"


def _missed(event: RunMissed) -> tuple[str, str]:
    slots = "1 slot" if event.missed == 1 else f"{event.missed} slots"
    newest = ", ".join(f"{slot:%Y-%m-%d %H:%M:%S}Z" for slot in event.slots[-_SLOTS_NAMED:])
    why = {
        "too_late": "They are older than the job catches up.",
        "caught_up": "A later request asked once for the newest data.",
    }.get(event.reason, f"Reason: {event.reason}.")
    return f"{event.job}: {slots} missed", f"The newest of them: {newest}.\n{why}"


def _listed(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
