"""`quotebus plan`: show what the jobs will cost, and whether it fits."""

from typing import TYPE_CHECKING

import click
import msgspec

from quotebus.cli.context import CommandContext, config_options, nats_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, output_option, write

if TYPE_CHECKING:
    from contracts.job import Job
    from contracts.plan_ask import CostPlan
    from quotebus.cli.local_settings import LocalSettings


@click.command()
@output_option()
@config_options
def plan(place: CommandContext, *, output: str) -> int:
    """Show the calls that the enabled jobs will make, job by job, and whether every provider's limits have room for them.

    A job's numbers are those of its fullest day of the next seven; a limit's, those of its fullest window. Merged are calls that
    another job makes at the same time. Answers of several pages take more. Exit 1 if something does not fit. No fetcher need run.
    """
    found = run_async(_costs_here(place.here()))
    jobs, limits = _rows(found)
    if output == "table":
        write(jobs, output, "no job is enabled")
        click.echo()
        write(limits, output)
    else:
        everything = [{"kind": "job", **row} for row in jobs] + [{"kind": "limit", **row} for row in limits]
        columns = list(dict.fromkeys(column for row in everything for column in row))
        write(({column: row.get(column) for column in columns} for row in everything), output)
    return 0 if found.fits else 1


async def costs_of(here: "LocalSettings", job: "Job") -> list[str]:
    """Cost of adding or changing this job, a line each; no lines where it is unknown."""
    found = await _costs_here(here, job)
    mine = next((cost for cost in found.jobs if cost.job == job.id), None)
    if mine is None:
        return []
    if mine.calls is None:
        return [f"{job.id}: its calls are not known: {mine.problem}"]
    if not mine.runs:
        return [f"{job.id}: no run in the next seven days"]
    lines = [f"{job.id}: {mine.runs} runs and {mine.calls} calls of {mine.provider} on its fullest day, for {mine.symbols} symbols"]
    if mine.merged:
        lines[0] += f"; another {mine.merged} are made by jobs that want the same at the same time"
    over = [limit for limit in found.limits if limit.provider == mine.provider and not limit.fits]
    lines += [f"warning: {_over(limit.window, limit.wanted, limit.limit)}: {limit.do}" for limit in over]
    return lines


def _over(window: str, wanted: int, limit: int) -> str:
    return f"all enabled jobs together want {wanted} in the window {window}, which allows {limit}"


def _rows(found: "CostPlan") -> tuple[list[Row], list[Row]]:
    return [msgspec.structs.asdict(job) for job in found.jobs], [msgspec.structs.asdict(limit) for limit in found.limits]


async def _costs_here(here: "LocalSettings", draft: "Job | None" = None) -> "CostPlan":
    from services.fetcher.accounts import accounts
    from services.fetcher.on_plan_ask import costs
    from services.runtime.jobs.store import JobError

    try:
        known = accounts(here.settings)
    except ValueError as error:
        raise CommandError("bad_settings", f"providers: {error}") from None
    async with nats_of(here) as qb:
        try:
            return await costs(qb.nc, here.settings, known, draft)
        except JobError as error:
            raise CommandError(error.kind, str(error)) from None
