"""`quotebus jobs`: list, add, change, pause and run jobs."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from quotebus.cli.connections import Place, nats_of, place_options, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.job_options import CLEARABLE, defaults, job_options
from quotebus.cli.job_rows import job_fields, job_row
from quotebus.cli.output import output_option, write

if TYPE_CHECKING:
    from contracts.job import Job
    from quotebus.client import Client
    from services.runtime.jobs.store import JobBucket

T = TypeVar("T")


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List, add, change, pause and run jobs. Without a command it lists them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_jobs)


@jobs.command("list")
@output_option()
@place_options
def list_jobs(place: Place, *, output: str) -> None:
    """List every job: when it runs, what it asks for, and when next."""
    found = run_async(_with_bucket(place, lambda bucket: bucket.all()))
    _print(place, found, output, "there are no jobs: add one with `quotebus jobs add`, or in quotebus.toml")


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@job_options
@output_option()
@place_options
def add(place: Place, job_id: str, symbols: Sequence[str], *, fields: dict[str, object], output: str) -> None:
    """Add a job; one of --every, --cron, --at, --session and --after says when it runs."""
    _check_universe(place, fields)
    wanted = {"id": job_id, "symbols": list(symbols), **fields}
    job = run_async(_with_bucket(place, lambda bucket: bucket.add(wanted)))
    _print(place, [job], output)
    _say_costs(place, job)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@job_options
@click.option("--clear", multiple=True, type=click.Choice(CLEARABLE), help="Take this away from it; as often as you like.")
@output_option()
@place_options
def edit(
    place: Place, job_id: str, symbols: Sequence[str], *, fields: dict[str, object], clear: Sequence[str], output: str
) -> None:
    """Change what is given of a job and leave the rest. SYMBOLs replace those it has."""
    cleared = defaults(clear) if clear else {}
    changes = {**cleared, **fields, **({"symbols": list(symbols)} if symbols else {})}
    _check_universe(place, changes)
    if not changes:
        raise CommandError("usage", f"nothing to change: `quotebus jobs edit --help` shows what there is of {job_id}")
    job = run_async(_with_bucket(place, lambda bucket: bucket.change(job_id, changes)))
    _print(place, [job], output)
    _say_costs(place, job)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--reason", required=True, help="Why; whoever looks at the jobs reads it.")
@output_option()
@place_options
def pause(place: Place, job_id: str, *, reason: str, output: str) -> None:
    """Let a job ask for nothing until it is resumed."""
    _print(place, [run_async(_with_bucket(place, lambda bucket: bucket.pause(job_id, reason)))], output)


@jobs.command()
@click.argument("job_id", metavar="ID")
@output_option()
@place_options
def resume(place: Place, job_id: str, *, output: str) -> None:
    """Let a paused job go on; slots that passed meanwhile are not made up for."""
    _print(place, [run_async(_with_bucket(place, lambda bucket: bucket.resume(job_id)))], output)


@jobs.command()
@click.argument("job_id", metavar="ID")
@place_options
def rm(place: Place, job_id: str) -> None:
    """Remove a job."""
    run_async(_with_bucket(place, lambda bucket: bucket.remove(job_id)))
    click.echo(f"removed {job_id}", err=True)


@jobs.command()
@click.argument("job_id", metavar="ID")
@output_option()
@place_options
def run(place: Place, job_id: str, *, output: str) -> None:
    """Run a job now, paused or not, before everything that is not asked by hand."""
    request_id = run_async(_run(place, job_id))
    write([{"job": job_id, "request_id": request_id}], output)


def _say_costs(place: Place, job: "Job") -> None:
    from quotebus.cli.plan import costs_of

    if job.enabled:
        for line in run_async(costs_of(place.here(), job)):
            click.echo(line, err=True)


def _check_universe(place: Place, fields: Mapping[str, object]) -> None:
    from services.runtime.settings import unknown_universe

    if fault := unknown_universe(fields.get("universe"), place.here().settings.universes):
        raise CommandError("bad_request", fault)


async def _with_bucket(place: Place, work: Callable[["JobBucket"], Awaitable[T]]) -> T:
    async with nats_of(place.here()) as client:
        return await _in_bucket(client, work)


async def _in_bucket(client: "Client", work: Callable[["JobBucket"], Awaitable[T]]) -> T:
    from services.runtime.jobs.store import JobError, open_job_bucket

    try:
        return await work(await open_job_bucket(client.nc))
    except JobError as error:
        raise CommandError(error.kind, str(error)) from None


async def _run(place: Place, job_id: str) -> str:
    from services.runtime.jobs.store import wish_by_hand

    async with nats_of(place.here()) as client:
        job = await _in_bucket(client, lambda bucket: bucket.get(job_id))
        return await client.request_refresh(wish_by_hand(job))


def _print(place: Place, jobs: "Sequence[Job]", output: str, nothing: str = "") -> None:
    if output != "table":
        write([job_fields(job) for job in jobs], output, nothing)
        return
    calendars = run_async(_with_bucket(place, lambda bucket: bucket.calendars(jobs)))
    now = datetime.now(UTC)
    write([job_row(job, calendars, now) for job in jobs], output, nothing)
