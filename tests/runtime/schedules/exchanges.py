"""Exchanges as tests need them: New York in 2026 by hand, and small ones of any shape."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from contracts.trading_sessions import TradingSessions
from services.runtime.schedules.sessions import Calendar

DAY = timedelta(days=1)
NEW_YORK = ZoneInfo("America/New_York")
HOLIDAYS = {
    date(2026, month, day)
    for month, day in [(1, 1), (1, 19), (2, 16), (4, 3), (5, 25), (6, 19), (7, 3), (9, 7), (11, 26), (12, 25)]
}
HALF_DAYS = {date(2026, 11, 27), date(2026, 12, 24)}

Hours = tuple[datetime, datetime]


def new_york(first: date, last: date) -> Calendar:
    """Its sessions between two dates of 2026."""
    days = [first + n * DAY for n in range((last - first).days + 1)]
    days = [day for day in days if day.weekday() < 5 and day not in HOLIDAYS]
    hours = [(_at(day, 9, 30), _at(day, 13 if day in HALF_DAYS else 16, 0)) for day in days]
    return exchange(days, hours, first, last)


def exchange(
    days: list[date], hours: list[Hours], first: date, last: date, *, pauses: list[Hours | None] | None = None, code: str = "XNYS"
) -> Calendar:
    """An exchange with these sessions."""
    return Calendar(sessions(days, hours, first, last, pauses=pauses, code=code))


def sessions(
    days: list[date], hours: list[Hours], first: date, last: date, *, pauses: list[Hours | None] | None = None, code: str = "XNYS"
) -> TradingSessions:
    """The same as a message."""
    noon = pauses or [None] * len(days)
    return TradingSessions(
        calendar=code,
        timezone=NEW_YORK.key,
        first=first,
        last=last,
        day=days,
        open=[opens for opens, _ in hours],
        close=[closes for _, closes in hours],
        break_start=[each and each[0] for each in noon],
        break_end=[each and each[1] for each in noon],
        source="by hand",
        made_at=datetime.now(UTC),
    )


def _at(day: date, hour: int, minute: int) -> datetime:
    return datetime.combine(day, time(hour, minute), NEW_YORK).astimezone(UTC)
