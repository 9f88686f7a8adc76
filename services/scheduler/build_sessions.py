"""`python -m services.scheduler.build_sessions XNYS …`: the sessions of these exchanges, a JSON line each, a year back and ahead.

The only code that knows exchange_calendars, which costs seconds and a hundred megabytes. So it is a process of its own that ends;
whoever runs it keeps what it prints. What went wrong is on stderr, a line an exchange, and the exit code is 1.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from contracts.message import encode
from contracts.trading_sessions import TradingSessions

REACH = timedelta(days=366)


def sessions_of(code: str, today: date) -> TradingSessions:
    """The sessions of one exchange, as far ahead as they are known, a year at most.

    Raises:
        ValueError: they cannot be made for these days.
    """
    with warnings.catch_warnings():
        # What its use of pandas warns of is not ours to change.
        warnings.simplefilter("ignore")
        import exchange_calendars  # noqa: PLC0415  (see above)

        first, last = today - REACH, _last(exchange_calendars, code, today + REACH)
        calendar = exchange_calendars.get_calendar(code, start=first, end=last)
        table = calendar.schedule
    return TradingSessions(
        calendar=code,
        timezone=str(calendar.tz),
        first=first,
        last=last,
        day=[each.date() for each in table.index],
        open=_instants(table["open"]),
        close=_instants(table["close"]),
        break_start=_instants(table["break_start"]),
        break_end=_instants(table["break_end"]),
        source=f"exchange_calendars {exchange_calendars.__version__}",
        made_at=datetime.now(UTC),
    )


def main(codes: Sequence[str]) -> int:
    """Print the sessions of these exchanges; give the exit code."""
    # The clock on this machine has something to do at a certain instant, this has not.
    os.nice(10)
    failed = 0
    for code in codes:
        try:
            print(encode(sessions_of(code, datetime.now(UTC).date())).decode(), flush=True)  # noqa: T201  (it is what this program gives)
        except Exception as error:  # of one exchange, and of whatever kind: the others are of use
            failed = 1
            sys.stderr.write(f"{code}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n")
    return failed


def _last(library: Any, code: str, wanted: date) -> date:
    """The last day that can be asked for: some exchanges announce their holidays a year at a time."""
    bound = library.calendar_utils.global_calendar_dispatcher._calendar_factories[code].bound_max()  # noqa: SLF001  (told nowhere else)
    return min(wanted, bound.date()) if bound is not None else wanted


def _instants(column: Any) -> list[Any]:
    return [None if each is None or each != each else each.to_pydatetime().astimezone(UTC) for each in column]  # noqa: PLR0124  (NaT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
