"""The fields of a job as options of a command."""

import functools
import re
from collections.abc import Callable
from typing import Any

import click

from contracts.message import DATASETS, LANES, TIMEFRAMES

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
    "timezone": click.option("--timezone", help="Of --cron and --at, such as America/New_York. Default: UTC."),
    "dataset": click.option("--dataset", type=click.Choice(DATASETS), help="Default: bars."),
    "timeframe": click.option("--timeframe", type=click.Choice(TIMEFRAMES), help="Of bars."),
    "universe": click.option("--universe", type=click.Choice(["watchlist"]), help="The watchlist table instead of symbols."),
    "provider": click.option("--provider", help="Ask this one; else the planner chooses."),
    "lane": click.option("--lane", type=click.Choice(LANES), help="Default: live."),
    "max_age_s": click.option("--max-age", "max_age_s", type=Span(), help="Leave alone what is fresher."),
    "expires_after_s": click.option("--expires-after", "expires_after_s", type=Span(), help="Its worth ends then. Default: 1h."),
    "catch_up": click.option("--catch-up", type=click.Choice(["latest", "none"]), help="After an outage. Default: latest."),
    "catch_up_window_s": click.option("--catch-up-window", "catch_up_window_s", type=Span(), help="Age of a missed slot at most."),
}


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options; those that were given reach the command together, as its argument `fields`."""

    @functools.wraps(command)
    def with_fields(*args: Any, **given: Any) -> Any:
        values = {name: given.pop(name) for name in _OPTIONS}
        fields = {name: value for name, value in values.items() if value not in (None, ())}
        return command(*args, fields=fields, **given)

    return functools.reduce(lambda inner, option: option(inner), reversed(_OPTIONS.values()), with_fields)
