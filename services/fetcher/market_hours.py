"""Whether a provider can have anything new: by when its exchange was last open, and when it was last asked."""

from bisect import bisect_right
from datetime import UTC, datetime
from typing import Literal

from contracts.message import Dataset, Timeframe
from services.runtime.sessions import Calendar

# Trades are reported and quotes move for a while after the close; a day's bar is corrected until late at night.
SETTLES_IN_S = 900.0
DAY_SETTLES_IN_S = 12 * 3600.0
_OF_DAYS: tuple[Timeframe | None, ...] = ("1d", "1wk", "1mo")
# Actions and the like come whenever somebody announces them.
_TRADED: tuple[Dataset, ...] = ("bars", "quote", "chain")
NothingNew = Literal["closed", "holiday"]


class MarketHours:
    """Says of one exchange and one kind of data whether a call made now could bring more than one made before.

    `delay_s`: how old the provider's newest data is.
    """

    def __init__(self, calendar: Calendar, dataset: Dataset, timeframe: Timeframe | None, delay_s: float) -> None:
        self._calendar = calendar
        self._traded = dataset in _TRADED
        self._settle_s = delay_s + (DAY_SETTLES_IN_S if timeframe in _OF_DAYS else SETTLES_IN_S)

    def nothing_new(self, fetched_at: datetime, now: datetime) -> NothingNew | None:
        """Why nothing can be new since `fetched_at`: the exchange is closed, for a holiday, or for the night or the weekend.

        None: it is open, it was since, or nobody knows.
        """
        today = now.astimezone(self._calendar.zone).date()
        if not self._traded or not self._calendar.first <= today <= self._calendar.last:
            return None
        at = now.astimezone(UTC).timestamp()
        last = bisect_right(self._calendar.hours, (at, float("inf"))) - 1
        if last < 0:
            return None
        _, closed = self._calendar.hours[last]
        settled = closed + self._settle_s
        if at < settled or fetched_at.timestamp() < settled:
            return None
        is_workday = today.weekday() < 5
        return "holiday" if is_workday and not self._calendar.has_session(today) else "closed"
