"""`quotebus jobs`: list, add, change, pause and run jobs."""

import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from contracts.datasets import DATASET_NAMES
from contracts.message import LANES, TIMEFRAMES
from quotebus.cli.context import CommandContext, config_options, nats_of, run_async
from quotebus.cli.errors import CommandError
from quotebus.cli.output import Row, output_option, write

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

if TYPE_CHECKING:
    from contracts.job import Job
    from quotebus.client import Client
    from services.runtime.jobs.store import JobBucket
    from services.runtime.schedules.sessions import Calendars

_NAMES_SHOWN = 6
_SHOWN_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


T = TypeVar("T")


class Duration(click.ParamType[float]):
    """A length of time: seconds, or a number with s, m, h or d."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The length in seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value)
        if found is None:
            self.fail(f"{value!r} is no length of time; give seconds, or 5m, 2h, 1d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


_OPTIONS = {
    "every_s": click.option("--every", "every_s", type=Duration(), help="Every so long: 5, 30s, 5m, 1h; at whole multiples of it."),
    "cron": click.option("--cron", help="minute, hour, day of month, month, day of week: '30 17 * * 1-5'."),
    "at": click.option("--at", multiple=True, help="Time of day, HH:MM; as often as you like."),
    "session": click.option(
        "--session", help="Within sessions: open+5m, close-10m, 'every 15m', 'every 15m from open+5m to close'."
    ),
    "after": click.option("--after", help="When a run of this job is over."),
    "at_least_every_s": click.option(
        "--at-least-every", "at_least_every_s", type=Duration(), help="With --after: that often anyway."
    ),
    "days": click.option("--days", multiple=True, help="mon-fri, sat, 1, 15, last, last-of-week; as often as you like."),
    "calendar": click.option("--calendar", help="Only on days with a session: XNYS, XLON, …"),
    "timezone": click.option("--timezone", help="Of --cron, --at and --days, such as America/New_York. Default: UTC."),
    "dst_gap": click.option(
        "--dst-gap", type=click.Choice(["next", "skip"]), help="A time that the clocks skip: after it, or not."
    ),
    "dst_fold": click.option("--dst-fold", type=click.Choice(["first", "both"]), help="A time that they repeat: once, or twice."),
    "jitter_s": click.option("--jitter", "jitter_s", type=Duration(), help="Each slot up to so much later, by a hash."),
    "dataset": click.option("--dataset", type=click.Choice(DATASET_NAMES), help="Default: bars."),
    "timeframe": click.option("--timeframe", type=click.Choice(TIMEFRAMES), help="Of bars."),
    "universe": click.option("--universe", help="watchlist, active, or one of [universes], instead of symbols."),
    "max_symbols": click.option("--max-symbols", type=click.IntRange(min=1), help="Only the first so many in a run."),
    "lookback_days": click.option("--lookback-days", type=click.IntRange(min=1), help="So many days instead of the latest."),
    "provider": click.option("--provider", help="Ask this one; else the planner chooses."),
    "lane": click.option("--lane", type=click.Choice(LANES), help="Default: live."),
    "max_age_s": click.option("--max-age", "max_age_s", type=Duration(), help="Leave alone what is fresher."),
    "expires_after_s": click.option(
        "--expires-after", "expires_after_s", type=Duration(), help="Its worth ends then. Default: 1h."
    ),
    "catch_up": click.option("--catch-up", type=click.Choice(["latest", "all", "none"]), help="After an outage. Default: latest."),
    "catch_up_window_s": click.option(
        "--catch-up-window", "catch_up_window_s", type=Duration(), help="Age of a missed slot at most."
    ),
}
# What a job can do without.
CLEARABLE = (
    "at-least-every", "days", "calendar", "dst-gap", "dst-fold", "jitter", "max-symbols", "lookback-days", "timeframe", "universe",
    "provider", "max-age",
)  # fmt: skip


def defaults(options: Iterable[str]) -> dict[str, object]:
    """The fields of these options as a job has them that does not name them."""
    import msgspec

    from contracts.job import Job

    fields = {field.name.removesuffix("_s"): field for field in msgspec.structs.fields(Job)}
    found = {}
    for option in options:
        field = fields[option.replace("-", "_")]
        found[field.name] = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return found


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options; those that were given reach the command together, as its argument `fields`."""

    @functools.wraps(command)
    def with_fields(*args: Any, **given: Any) -> Any:
        values = {name: given.pop(name) for name in _OPTIONS}
        fields = {name: value for name, value in values.items() if value not in (None, ())}
        return command(*args, fields=fields, **given)

    return functools.reduce(lambda inner, option: option(inner), reversed(_OPTIONS.values()), with_fields)


def job_fields(job: "Job") -> Row:
    """Every field, as the contract has it."""
    import msgspec

    return msgspec.structs.asdict(job)


def job_row(job: "Job", calendars: "Calendars", now: datetime) -> Row:
    """Row of a job: its schedule, its request, and its next slot."""
    return {
        "job": job.id,
        "when": when(job),
        "next": following(job, calendars, now),
        "what": _what(job),
        "symbols": _symbols(job),
        "provider": job.provider or "any",
        "lane": job.lane,
        "state": "on" if job.enabled else f"paused: {job.paused_reason or 'no reason given'}",
        "from": job.origin,
    }


def when(job: "Job") -> str:
    """Its schedule in words."""
    if job.every_s is not None:
        parts = [f"every {_span(job.every_s)}"]
    elif job.session is not None:
        parts = [job.session]
    elif job.after is not None:
        parts = [f"after {job.after}"]
    else:
        parts = [job.cron or f"at {', '.join(job.at)}"]
    if job.at_least_every_s is not None:
        parts.append(f"at least every {_span(job.at_least_every_s)}")
    if job.days:
        parts.append(f"on {' '.join(job.days)}")
    if job.calendar is not None:
        parts.append(job.calendar)
    if job.timezone != "UTC":
        parts.append(job.timezone)
    if job.jitter_s:
        parts.append(f"up to {_span(job.jitter_s)} later")
    return ", ".join(parts)


def following(job: "Job", calendars: "Calendars", now: datetime) -> datetime | str | None:
    """Its next slot; of one that follows another none is known."""
    from services.runtime.schedules.build import schedule_of

    if not job.enabled or job.after is not None:
        return None
    try:
        return schedule_of(job, calendars).next_after(now).replace(microsecond=0)
    except ValueError as error:
        return f"never: {error}"


def _what(job: "Job") -> str:
    past = f" {job.lookback_days} days" if job.lookback_days else ""
    return f"{job.dataset} {job.timeframe or ''}".strip() + past


def _symbols(job: "Job") -> str:
    most = f" (at most {job.max_symbols})" if job.max_symbols else ""
    if job.universe:
        return job.universe + most
    more = len(job.symbols) - _NAMES_SHOWN
    return " ".join(job.symbols[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "") + most


def _span(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _SHOWN_UNITS if seconds >= size and seconds % size == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List, add, change, pause and run jobs. Without a command it lists them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_jobs)


@jobs.command("list")
@output_option()
@config_options
def list_jobs(place: CommandContext, *, output: str) -> None:
    """List every job: when it runs, what it asks for, and when next."""
    found = run_async(_with_bucket(place, lambda bucket: bucket.all()))
    _print(place, found, output, "there are no jobs: add one with `quotebus jobs add`, or in quotebus.toml")


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@job_options
@output_option()
@config_options
def add(place: CommandContext, job_id: str, symbols: Sequence[str], *, fields: dict[str, object], output: str) -> None:
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
@config_options
def edit(
    place: CommandContext, job_id: str, symbols: Sequence[str], *, fields: dict[str, object], clear: Sequence[str], output: str
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
@config_options
def pause(place: CommandContext, job_id: str, *, reason: str, output: str) -> None:
    """Let a job ask for nothing until it is resumed."""
    _print(place, [run_async(_with_bucket(place, lambda bucket: bucket.pause(job_id, reason)))], output)


@jobs.command()
@click.argument("job_id", metavar="ID")
@output_option()
@config_options
def resume(place: CommandContext, job_id: str, *, output: str) -> None:
    """Let a paused job go on; slots that passed meanwhile are not made up for."""
    _print(place, [run_async(_with_bucket(place, lambda bucket: bucket.resume(job_id)))], output)


@jobs.command()
@click.argument("job_id", metavar="ID")
@config_options
def rm(place: CommandContext, job_id: str) -> None:
    """Remove a job."""
    run_async(_with_bucket(place, lambda bucket: bucket.remove(job_id)))
    click.echo(f"removed {job_id}", err=True)


@jobs.command()
@click.argument("job_id", metavar="ID")
@output_option()
@config_options
def run(place: CommandContext, job_id: str, *, output: str) -> None:
    """Run a job now, paused or not, before everything that is not asked by hand."""
    request_id = run_async(_run(place, job_id))
    write([{"job": job_id, "request_id": request_id}], output)


def _say_costs(place: CommandContext, job: "Job") -> None:
    from quotebus.cli.plan import costs_of

    if job.enabled:
        for line in run_async(costs_of(place.here(), job)):
            click.echo(line, err=True)


def _check_universe(place: CommandContext, fields: Mapping[str, object]) -> None:
    from services.runtime.settings import unknown_universe

    if fault := unknown_universe(fields.get("universe"), place.here().settings.universes):
        raise CommandError("bad_request", fault)


async def _with_bucket(place: CommandContext, work: Callable[["JobBucket"], Awaitable[T]]) -> T:
    async with nats_of(place.here()) as client:
        return await _in_bucket(client, work)


async def _in_bucket(client: "Client", work: Callable[["JobBucket"], Awaitable[T]]) -> T:
    from services.runtime.jobs.store import JobError, open_job_bucket

    try:
        return await work(await open_job_bucket(client.nc))
    except JobError as error:
        raise CommandError(error.kind, str(error)) from None


async def _run(place: CommandContext, job_id: str) -> str:
    from services.runtime.jobs.store import manual_request

    async with nats_of(place.here()) as client:
        job = await _in_bucket(client, lambda bucket: bucket.get(job_id))
        return await client.request_refresh(manual_request(job))


def _print(place: CommandContext, jobs: "Sequence[Job]", output: str, nothing: str = "") -> None:
    if output != "table":
        write([job_fields(job) for job in jobs], output, nothing)
        return
    calendars = run_async(_with_bucket(place, lambda bucket: bucket.calendars(jobs)))
    now = datetime.now(UTC)
    write([job_row(job, calendars, now) for job in jobs], output, nothing)
