"""The ranges Polygon is asked for bars of."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from contracts.message import Timeframe
from services.fetcher.adapter.fields import LENGTHS, day_start, period_end, period_start
from services.fetcher.provider import FetchCall
from services.fetcher.providers.polygon.answers import NEW_YORK

WINDOWS: dict[Timeframe, str] = {
    "1m": "1/minute", "5m": "5/minute", "15m": "15/minute", "30m": "30/minute",
    "1h": "1/hour", "1d": "1/day", "1wk": "1/week", "1mo": "1/month",
}  # fmt: skip
# So many days hold 500 bars, or are the minutes of one page; two years is what a free key may see.
LATEST_DAYS: dict[Timeframe, int] = {"1m": 7, "5m": 14, "15m": 30, "30m": 50, "1h": 70, "1d": 728, "1wk": 3530, "1mo": 15300}


def span(call: FetchCall, timeframe: Timeframe, now: datetime) -> str:
    """The range as the vendor takes it, both ends inclusive: days of the exchange, or instants where our days are not its days."""
    if call.start is None or call.end is None:
        return f"{period_start(now.date() - timedelta(days=LATEST_DAYS[timeframe]), timeframe)}/{now.date()}"
    if timeframe in LENGTHS:
        return f"{_milliseconds(call.start)}/{_milliseconds(call.end) - 1}"
    last = period_end(period_start(call.end - timedelta(days=1), timeframe), timeframe) - timedelta(days=1)
    return f"{period_start(call.start, timeframe)}/{last}"


def _milliseconds(day: date) -> int:
    return int(day_start(day).timestamp()) * 1000


def trading_days(call: FetchCall, now: datetime) -> list[date]:
    """The weekdays of a range of daily bars that have begun in New York."""
    if call.timeframe != "1d" or call.start is None or call.end is None:
        return []
    count = (min(call.end, today(now) + timedelta(days=1)) - call.start).days
    return [day for i in range(count) if (day := call.start + timedelta(days=i)).weekday() < 5]


def today(now: datetime) -> date:
    """The day it is in New York."""
    return now.astimezone(ZoneInfo(NEW_YORK)).date()
