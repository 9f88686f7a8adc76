"""`quotebus runs`: show what ran, and what became of it."""

import json
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import click

from contracts.run_events import RunFinished, RunPlanned, RunResult
from quotebus.cli.context import CommandContext, config_options, nats_of, postgres_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Output, Row, output_option, text_of, write

if TYPE_CHECKING:
    from rich.progress import TaskID

    from contracts.run_events import RunMissed
    from quotebus.cli.local_settings import LocalSettings

    Event = RunPlanned | RunResult | RunFinished | RunMissed

# A person reads them in the details of a run.
_NOT_IN_TABLE = ("slot_at", "reason", "reasons", "missed_slots")


_BETWEEN_LINES_S = 1.0
_COLUMNS = ("run_id", "job", "planned", "done", "outcomes", "reasons", "calls", "late_s", "took_s", "missed_slots", "reason")


@click.command()
@click.argument("words", nargs=-1, metavar="[JOB | RUN | retry RUN]")
@click.option("--follow", is_flag=True, help="Show runs as they go on and end, from now on.")
@click.option("--run", "run_id", help="The same as RUN.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@output_option()
@config_options
def runs(place: CommandContext, words: tuple[str, ...], *, follow: bool, run_id: str | None, limit: int, output: str) -> int:
    """Show what ran and which slots had no run, the newest first: of JOB, or of all jobs and requests by hand.

    RUN, a number, shows what became of each symbol of that run. `retry RUN` asks again for the symbols that failed or expired.
    --follow has a bar for each run on a terminal; elsewhere it prints a line of JSON for each step. Ctrl-C ends it.
    """
    here = place.here()
    job, run_id, again = _meant(words, run_id)
    if again and run_id:
        return _retry(here, run_id, output)
    if run_id:
        return _details(here, run_id, output)
    if follow:
        from quotebus.cli.runs import follow_runs

        try:
            run_async(follow_runs(here, job, output))
        except KeyboardInterrupt:
            return 0
    rows = run_async(_newest(here, job, limit))
    if output == "table":
        rows = [_for_a_table(row) for row in rows]
    write(rows, output, f"{job} has not run yet" if job else "nothing has run yet")
    return 0


def _meant(words: tuple[str, ...], run_id: str | None) -> tuple[str | None, str | None, bool]:
    """The job, the run, and whether to ask again for it."""
    match words:
        case ():
            return None, run_id, False
        case ("retry", run) if run_id is None:
            return None, run, True
        case (word,) if run_id is None:
            return (None, word, False) if re.fullmatch(r"[0-9]+", word) else (word, None, False)
        case _:
            raise CommandError("usage", "name one job, one run, or `retry` and a run (see `quotebus runs --help`)")


async def _newest(here: "LocalSettings", job: str | None, limit: int) -> list[Row]:
    from quotebus.cli.queries import slots

    async with postgres_of(here) as connection:
        return [_row(found) for found in await slots(connection, job, limit)]


def _details(here: "LocalSettings", run_id: str, output: str) -> int:
    found, results = run_async(_read(here, run_id))
    if output == "table":
        for name, value in _row(found).items():
            if value not in (None, {}):
                click.echo(f"{name:<12}  {text_of(value)}")
        click.echo()
    write(results, output, "it had no symbols to ask for")
    return 0


def _retry(here: "LocalSettings", run_id: str, output: str) -> int:
    found, results = run_async(_read(here, run_id))
    from quotebus.cli.queries import FAILED

    symbols = [str(result["symbol"]) for result in results if result["outcome"] in FAILED]
    if not symbols and found["reason"]:
        # There is nothing to name: what the run was to ask for is not known.
        raise CommandError("bad_request", f"run {run_id} was refused ({found['reason']}): put that right and run its job again")
    if not symbols:
        click.echo(f"no symbol of run {run_id} has failed", err=True)
        return 0
    request_id = run_async(_ask_again(here, found, symbols))
    write([{"request_id": request_id, "retry_of": run_id, "symbols": symbols}], output)
    return 0


async def _read(here: "LocalSettings", run_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from quotebus.cli import queries as read_postgres_runs

    async with postgres_of(here) as connection:
        found = await read_postgres_runs.run(connection, run_id)
        if found is None:
            raise CommandError("not_found", f"there is no run {run_id}: `quotebus runs` lists the newest")
        return found, await read_postgres_runs.results(connection, run_id, found["request_id"])


async def _ask_again(here: "LocalSettings", found: dict[str, Any], symbols: list[str]) -> str:
    from contracts.refresh_request import RefreshRequest

    # By hand, and not under the job's name: the clock knows by its newest request which slot the job is at.
    wish = RefreshRequest(
        symbols=symbols,
        dataset=found["dataset"],
        timeframe=found["timeframe"],
        start=found["range_start"],
        end=found["range_end"],
        provider=found["provider"],
    )
    async with nats_of(here) as qb:
        return await qb.request_refresh(wish)


def _row(found: dict[str, Any]) -> dict[str, object]:
    outcomes, reasons, calls = (json.loads(found[name]) if found[name] else {} for name in ("counts", "reasons", "calls"))
    return {
        "run": found["run_id"],
        "job": found["job"],
        "what": " ".join(found[name] for name in ("dataset", "timeframe") if found[name]),
        "slot_at": found["slot_at"],
        "requested_at": found["requested_at"],
        "late_s": found["late_s"],
        "took_s": found["took_s"],
        "planned": found["planned"],
        "state": found["state"],
        "reason": found["reason"],
        "outcomes": outcomes,
        "reasons": reasons,
        "calls": calls,
        "missed_slots": found["missed_slots"],
    }


def _for_a_table(row: Row) -> Row:
    shown = {name: value for name, value in row.items() if name not in _NOT_IN_TABLE}
    if row["run"] is None:
        # A slot without a run stands where its run would.
        shown |= {"requested_at": row["slot_at"], "state": f"{row['state']}: {row['reason']}"}
    elif row["reason"]:
        shown["state"] = "refused"
    return shown


class RunProgressBars:
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

    def on_progress(self, run: "RunProgress") -> None:
        """Draw how far it is."""
        bar = self._bars.get(run.run_id)
        if bar is None:
            bar = self._bars[run.run_id] = self._progress.add_task(text_of(f"{run.job or 'by hand'} {run.run_id}"), outcomes="")
        self._progress.update(bar, total=run.planned or None, completed=run.done, outcomes=text_of(run.counts))

    def on_finished(self, run: "RunFinished", *, news: bool) -> None:
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

    def on_missed(self, event: "RunMissed") -> None:
        """A line for slots that had no run."""
        click.echo(f"{event.at:%H:%M:%S}Z  {event.job}: slots missed: {event.missed} ({text_of(event.reason)})")


class RunProgressLines:
    """A line when a run begins, at most one a second while it goes on, and one when it is over; all with the same keys."""

    def __init__(self, form: str) -> None:
        self._output = Output(form)
        self._said_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.end()

    def on_progress(self, run: "RunProgress") -> None:
        """Say how far it is, if that was not just said."""
        said_at = self._said_at.get(run.run_id)
        if said_at is None or monotonic() - said_at >= _BETWEEN_LINES_S:
            self._said_at[run.run_id] = monotonic()
            self._say("going", run_id=run.run_id, job=run.job, planned=run.planned, done=run.done, outcomes=run.counts)

    def on_finished(self, run: "RunFinished", *, news: bool) -> None:
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

    def on_missed(self, event: "RunMissed") -> None:
        """Say which slots had no run."""
        self._say("missed", job=event.job, missed_slots=event.missed, reason=event.reason)

    def _say(self, state: str, **known: object) -> None:
        row: Row = {"state": state, **{column: known.get(column) for column in _COLUMNS}}
        self._output.add(row)
        # Whoever reads our lines waits for this one.
        sys.stdout.flush()


async def follow_runs(here: "LocalSettings", job: str | None, output: str) -> None:
    """Show the runs of a job, or all runs, until interrupted; of those that go on already what has become of them so far."""
    from contracts.run_events import RunFinished, RunMissed
    from quotebus.cli.runs import RunTracker

    going, begun = RunTracker(), datetime.now(UTC)
    async with aclosing(_events(here, job)) as events:
        with _shown(output) as shown:
            async for event, stored_at in events:
                if isinstance(event, RunMissed):
                    if stored_at >= begun:
                        shown.on_missed(event)
                    continue
                run = going.apply(event)
                if run is not None:
                    shown.on_progress(run)
                elif isinstance(event, RunFinished):
                    shown.on_finished(event, news=stored_at >= begun)


async def _events(here: "LocalSettings", job: str | None) -> AsyncGenerator[tuple["Event", datetime], None]:
    import msgspec
    from nats.js.api import DeliverPolicy

    from contracts import subjects
    from contracts.message import decode
    from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult
    from services.runtime.follow import follow_stream

    kinds: dict[str, type[Event]] = {"planned": RunPlanned, "result": RunResult, "finished": RunFinished, "missed": RunMissed}
    start = await _oldest_going(here) or DeliverPolicy.NEW
    async with nats_of(here) as qb, aclosing(follow_stream(qb.nc, subjects.RUNS, subjects.run("*", job or "*"), start)) as batches:
        async for message in (message async for batch in batches for message in batch.messages):
            kind = kinds.get(message.subject.split(".")[1])
            try:
                if kind is not None:
                    yield decode(message.data, kind), message.metadata.timestamp
            except msgspec.MsgspecError:
                # The cacher makes a dead letter of it.
                continue


async def _oldest_going(here: "LocalSettings") -> datetime | None:
    from quotebus.cli.queries import oldest_going

    try:
        async with postgres_of(here) as connection:
            return await oldest_going(connection)
    except CommandError:
        # The bus alone knows what comes.
        return None


def _shown(output: str) -> RunProgressBars | RunProgressLines:
    if output == "table" and sys.stdout.isatty():
        return RunProgressBars()
    return RunProgressLines("csv" if output == "csv" else "ndjson")


@dataclass(eq=False)
class RunProgress:
    """A run under way. `outcomes`: the last known of each symbol; a merged one is not done before its twin's call."""

    run_id: str
    job: str | None
    planned: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Symbols that have their outcome."""
        return len(self.outcomes)

    @property
    def counts(self) -> dict[str, int]:
        """Symbols by outcome, so far."""
        counts: dict[str, int] = {}
        for outcome in self.outcomes.values():
            counts[outcome] = counts.get(outcome, 0) + 1
        return counts


class RunTracker:
    """The runs that are under way, as the events tell them: in any order, and any of them twice."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], RunProgress] = {}
        self._over: set[tuple[str, str]] = set()

    def apply(self, event: RunPlanned | RunResult | RunFinished) -> RunProgress | None:
        """Take an event in; give the run if it is one that goes on."""
        key = (event.run_id, event.request_id)
        if isinstance(event, RunFinished):
            self._over.add(key)
            self.runs.pop(key, None)
        if key in self._over:
            return None
        run = self.runs.setdefault(key, RunProgress(event.run_id, event.job))
        if isinstance(event, RunPlanned):
            run.planned = event.planned
        elif isinstance(event, RunResult) and (event.outcome != "merged" or event.called_at is not None):
            run.outcomes[event.symbol] = event.outcome
        return run
