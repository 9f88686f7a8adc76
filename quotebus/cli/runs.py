"""`quotebus runs`: what ran, and what became of it."""

import json
import sys
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import click

from quotebus.cli.connections import Place, nats_of, place_options, postgres_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Output, Row, output_option, write

if TYPE_CHECKING:
    from contracts.run_events import RunFinished
    from quotebus.settings_here import Here


@click.command()
@click.argument("job", required=False)
@click.option("--follow", is_flag=True, help="Print each run when it is over, from now on.")
@click.option("--run", "run_id", help="Instead: what became of each symbol of this run.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@output_option()
@place_options
def runs(place: Place, job: str | None, *, follow: bool, run_id: str | None, limit: int, output: str) -> int:
    """Show what ran, the newest first: of JOB, or of all jobs and requests by hand."""
    here = place.here()
    if run_id is not None:
        rows = run_async(_results(here, run_id))
        if not write(rows, output):
            raise CommandError("not_found", f"there is no run {run_id}: `quotebus runs` lists the newest")
        return 0
    if follow:
        try:
            run_async(_follow(here, job, "ndjson" if output in ("json", "ndjson") else output))
        except KeyboardInterrupt:
            return 0
    write(run_async(_newest(here, job, limit)), output, f"{job} has not run yet" if job else "nothing has run yet")
    return 0


async def _newest(here: "Here", job: str | None, limit: int) -> list[Row]:
    from quotebus.read_postgres import runs as read_runs

    async with postgres_of(here) as connection:
        return [_row(found) for found in await read_runs(connection, job, limit)]


async def _results(here: "Here", run_id: str) -> list[Row]:
    from quotebus.read_postgres import run_results

    async with postgres_of(here) as connection:
        return list(await run_results(connection, run_id))


def _row(found: dict[str, object]) -> Row:
    counts, calls = (json.loads(str(found[name])) if found[name] else {} for name in ("counts", "calls"))
    begun, ended = found["requested_at"], found["finished_at"]
    took = (ended - begun).total_seconds() if isinstance(begun, datetime) and isinstance(ended, datetime) else None
    return {
        "run": found["run_id"],
        "job": found["job"],
        "what": " ".join(str(found[name]) for name in ("dataset", "timeframe") if found[name]),
        "requested_at": begun,
        "took_s": took,
        "planned": found["planned"],
        "state": "over" if ended else "under way",
        "outcomes": counts,
        "calls": calls,
        "missed_slots": found["missed_slots"],
    }


async def _follow(here: "Here", job: str | None, output: str) -> None:
    from nats.js.api import DeliverPolicy

    from contracts import subjects
    from contracts.message import decode
    from contracts.run_events import RunFinished
    from quotebus.follow import follow

    subject = subjects.run("finished", job or "*")
    async with nats_of(here) as qb, aclosing(follow(qb.nc, subjects.RUNS, subject, DeliverPolicy.NEW)) as messages:
        printed = Output(output)
        async for message in messages:
            run = decode(message.data, RunFinished)
            if output == "table":
                click.echo(_line(run))
            else:
                printed.add(_finished(run))
                sys.stdout.flush()


def _finished(run: "RunFinished") -> Row:
    import msgspec

    return msgspec.structs.asdict(run)


def _line(run: "RunFinished") -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in run.counts.items())
    calls = ", ".join(f"{count} {provider}" for provider, count in run.calls.items()) or "none"
    took = f"{(run.finished_at - run.started_at).total_seconds():.1f} s"
    return f"{run.finished_at:%H:%M:%S}Z  run {run.run_id}  {run.job or 'by hand'}: {counts or 'nothing'}; calls: {calls}; {took}"
