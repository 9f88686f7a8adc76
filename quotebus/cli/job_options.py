"""The fields of a job as options of a command."""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import click

from contracts.datasets import DATASET_NAMES
from contracts.message import LANES, TIMEFRAMES

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Span(click.ParamType[float]):
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
    "every_s": click.option("--every", "every_s", type=Span(), help="Every so long: 5, 30s, 5m, 1h; at whole multiples of it."),
    "cron": click.option("--cron", help="minute, hour, day of month, month, day of week: '30 17 * * 1-5'."),
    "at": click.option("--at", multiple=True, help="Time of day, HH:MM; as often as you like."),
    "session": click.option(
        "--session", help="Within sessions: open+5m, close-10m, 'every 15m', 'every 15m from open+5m to close'."
    ),
    "after": click.option("--after", help="When a run of this job is over."),
    "at_least_every_s": click.option("--at-least-every", "at_least_every_s", type=Span(), help="With --after: that often anyway."),
    "days": click.option("--days", multiple=True, help="mon-fri, sat, 1, 15, last, last-of-week; as often as you like."),
    "calendar": click.option("--calendar", help="Only on days with a session: XNYS, XLON, …"),
    "timezone": click.option("--timezone", help="Of --cron, --at and --days, such as America/New_York. Default: UTC."),
    "dst_gap": click.option(
        "--dst-gap", type=click.Choice(["next", "skip"]), help="A time that the clocks skip: after it, or not."
    ),
    "dst_fold": click.option("--dst-fold", type=click.Choice(["first", "both"]), help="A time that they repeat: once, or twice."),
    "jitter_s": click.option("--jitter", "jitter_s", type=Span(), help="Each slot up to so much later, by a hash."),
    "dataset": click.option("--dataset", type=click.Choice(DATASET_NAMES), help="Default: bars."),
    "timeframe": click.option("--timeframe", type=click.Choice(TIMEFRAMES), help="Of bars."),
    "universe": click.option("--universe", help="watchlist, active, or one of [universes], instead of symbols."),
    "max_symbols": click.option("--max-symbols", type=click.IntRange(min=1), help="Only the first so many in a run."),
    "lookback_days": click.option("--lookback-days", type=click.IntRange(min=1), help="So many days instead of the latest."),
    "provider": click.option("--provider", help="Ask this one; else the planner chooses."),
    "lane": click.option("--lane", type=click.Choice(LANES), help="Default: live."),
    "max_age_s": click.option("--max-age", "max_age_s", type=Span(), help="Leave alone what is fresher."),
    "expires_after_s": click.option("--expires-after", "expires_after_s", type=Span(), help="Its worth ends then. Default: 1h."),
    "catch_up": click.option("--catch-up", type=click.Choice(["latest", "all", "none"]), help="After an outage. Default: latest."),
    "catch_up_window_s": click.option("--catch-up-window", "catch_up_window_s", type=Span(), help="Age of a missed slot at most."),
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
