"""How runs that go on are shown: bars for a person, lines for a program."""

import sys
from time import monotonic
from typing import TYPE_CHECKING, Self

import click

from quotebus.cli.output import Output, Row, text_of

if TYPE_CHECKING:
    from rich.progress import TaskID

    from contracts.run_events import RunFinished, RunMissed
    from quotebus.run_progress import RunGoing

_BETWEEN_LINES_S = 1.0
_COLUMNS = ("run_id", "job", "planned", "done", "outcomes", "reasons", "calls", "late_s", "took_s", "missed_slots", "reason")


class RunBars:
    """A bar for each run that goes on, and a line above them for each that is over."""

    def __enter__(self) -> Self:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[outcomes]}", markup=False))
        self._bars: dict[str, TaskID] = {}
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def going(self, run: "RunGoing") -> None:
        """Draw how far it is."""
        bar = self._bars.get(run.run_id)
        if bar is None:
            bar = self._bars[run.run_id] = self._progress.add_task(text_of(f"{run.job or 'by hand'} {run.run_id}"), outcomes="")
        self._progress.update(bar, total=run.planned or None, completed=run.done, outcomes=text_of(run.counts))

    def over(self, run: "RunFinished", *, news: bool) -> None:
        """Take its bar away; a line if its end is news."""
        if (bar := self._bars.pop(run.run_id, None)) is not None:
            self._progress.remove_task(bar)
        if news:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in run.counts.items())
            calls = ", ".join(f"{count} {provider}" for provider, count in run.calls.items()) or "none"
            who = f"run {run.run_id}  {run.job or 'by hand'}"
            took_s = (run.finished_at - run.started_at).total_seconds()
            end = f"refused: {text_of(run.refused)}" if run.refused else counts or "nothing"
            click.echo(f"{run.finished_at:%H:%M:%S}Z  {who}: {end}; calls: {calls}; {took_s:.1f} s")

    def missed(self, event: "RunMissed") -> None:
        """A line for slots that had no run."""
        click.echo(f"{event.at:%H:%M:%S}Z  {event.job}: slots missed: {event.missed} ({text_of(event.reason)})")


class RunLines:
    """A line when a run begins, at most one a second while it goes on, and one when it is over; all with the same keys."""

    def __init__(self, form: str) -> None:
        self._output = Output(form)
        self._said_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.end()

    def going(self, run: "RunGoing") -> None:
        """Say how far it is, if that was not just said."""
        said_at = self._said_at.get(run.run_id)
        if said_at is None or monotonic() - said_at >= _BETWEEN_LINES_S:
            self._said_at[run.run_id] = monotonic()
            self._say("going", run_id=run.run_id, job=run.job, planned=run.planned, done=run.done, outcomes=run.counts)

    def over(self, run: "RunFinished", *, news: bool) -> None:
        """Say how it ended, if that is news."""
        self._said_at.pop(run.run_id, None)
        if news:
            what = {
                "run_id": run.run_id,
                "job": run.job,
                "planned": run.planned,
                "done": run.planned,
                "missed_slots": run.missed_slots,
                "reason": run.refused,
            }
            late_s = (run.started_at - run.slot_at).total_seconds() if run.slot_at else None
            took_s = (run.finished_at - run.started_at).total_seconds()
            self._say("over", **what, outcomes=run.counts, reasons=run.reasons, calls=run.calls, late_s=late_s, took_s=took_s)

    def missed(self, event: "RunMissed") -> None:
        """Say which slots had no run."""
        self._say("missed", job=event.job, missed_slots=event.missed, reason=event.reason)

    def _say(self, state: str, **known: object) -> None:
        row: Row = {"state": state, **{column: known.get(column) for column in _COLUMNS}}
        self._output.add(row)
        # Whoever reads our lines waits for this one.
        sys.stdout.flush()
