"""Whether a provider can have anything new: by when its exchange was last open, and when it was last asked."""

from bisect import bisect_right
from datetime import UTC, datetime
from typing import Literal

from contracts.datasets import DATASETS
from contracts.message import Dataset, Timeframe
from services.fetcher.adapter.fields import day_start, period_start
from services.runtime.schedules.sessions import Calendar

# Trades are reported and quotes move for a while after the close; a day's bar is corrected until late at night.
SETTLES_IN_S = 900.0
DAY_SETTLES_IN_S = 12 * 3600.0
OF_DAYS: tuple[Timeframe | None, ...] = ("1d", "1wk", "1mo")
NothingNew = Literal["closed", "holiday"]


class MarketHours:
    """Says of one exchange and one kind of data whether a call made now could bring more than one made before.

    `delay_s`: how old the provider's newest data is.
    """

    def __init__(self, calendar: Calendar, dataset: Dataset, timeframe: Timeframe | None, delay_s: float) -> None:
        self._calendar = calendar
        self._dataset = dataset
        self._timeframe = timeframe
        self._settle_s = delay_s + (DAY_SETTLES_IN_S if timeframe in OF_DAYS else SETTLES_IN_S)

    def nothing_new(self, fetched_at: datetime, newest: datetime | None, now: datetime) -> NothingNew | None:
        """Why nothing can be new since an answer: the exchange is closed, for a holiday, or for the night or the weekend.

        `fetched_at`: when the answer was asked for; `newest`: of when its newest bar or its quote is, None if it does not say.
        None: the exchange is open, it was since, what it had last is still missing, or nobody knows.
        """
        today = now.astimezone(self._calendar.zone).date()
        if not DATASETS[self._dataset].follows_sessions or not self._calendar.first <= today <= self._calendar.last:
            return None
        last = bisect_right(self._calendar.hours, (now.astimezone(UTC).timestamp(), float("inf"))) - 1
        if last < 0:
            return None
        settled = self._calendar.hours[last][1] + self._settle_s
        if now.timestamp() < settled or fetched_at.timestamp() < settled or not self._has(last, newest):
            return None
        is_workday = today.weekday() < 5
        return "holiday" if is_workday and not self._calendar.has_session(today) else "closed"

    def _has(self, session: int, newest: datetime | None) -> bool:
        """Whether an answer reaches that session. Some vendors take a night to make a day's bar, whatever they declare."""
        day = self._calendar.days[session]
        if self._dataset == "bars" and self._timeframe in (None, *OF_DAYS):
            return newest is not None and newest >= day_start(period_start(day, self._timeframe or "1d"))
        if self._dataset == "bars":
            return newest is not None and newest.timestamp() >= self._calendar.hours[session][0]
        # A quote may be known by its date alone; the contracts of a chain were each traded some time.
        return self._dataset != "quote" or newest is None or newest >= day_start(day)
