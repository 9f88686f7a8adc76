"""`quotebus runs`: show what ran, and what became of it."""

import json
import re
from typing import TYPE_CHECKING, Any

import click

from quotebus.cli.connections import Place, nats_of, place_options, postgres_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, output_option, text_of, write

if TYPE_CHECKING:
    from quotebus.settings_here import Here

# A person reads them in the details of a run.
_NOT_IN_TABLE = ("slot_at", "reason", "reasons", "missed_slots")


@click.command()
@click.argument("words", nargs=-1, metavar="[JOB | RUN | retry RUN]")
@click.option("--follow", is_flag=True, help="Show runs as they go on and end, from now on.")
@click.option("--run", "run_id", help="The same as RUN.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@output_option()
@place_options
def runs(place: Place, words: tuple[str, ...], *, follow: bool, run_id: str | None, limit: int, output: str) -> int:
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
        from quotebus.cli.runs_follow import follow_runs

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


async def _newest(here: "Here", job: str | None, limit: int) -> list[Row]:
    from quotebus.read_postgres_runs import slots

    async with postgres_of(here) as connection:
        return [_row(found) for found in await slots(connection, job, limit)]


def _details(here: "Here", run_id: str, output: str) -> int:
    found, results = run_async(_read(here, run_id))
    if output == "table":
        for name, value in _row(found).items():
            if value not in (None, {}):
                click.echo(f"{name:<12}  {text_of(value)}")
        click.echo()
    write(results, output, "it had no symbols to ask for")
    return 0


def _retry(here: "Here", run_id: str, output: str) -> int:
    found, results = run_async(_read(here, run_id))
    from quotebus.read_postgres_runs import FAILED

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


async def _read(here: "Here", run_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from quotebus import read_postgres_runs

    async with postgres_of(here) as connection:
        found = await read_postgres_runs.run(connection, run_id)
        if found is None:
            raise CommandError("not_found", f"there is no run {run_id}: `quotebus runs` lists the newest")
        return found, await read_postgres_runs.results(connection, run_id, found["request_id"])


async def _ask_again(here: "Here", found: dict[str, Any], symbols: list[str]) -> str:
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
