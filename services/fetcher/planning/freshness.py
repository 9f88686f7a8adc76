"""Freshness: symbols that need no call, because their last event is new enough or their exchange has not been open since."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from contracts.datasets import DATASETS
from contracts.fetch_task import FetchTask
from contracts.message import Dataset, Timeframe
from services.fetcher.adapter.fields import day_start, pair_of, period_start
from services.fetcher.last_event import last_events
from services.fetcher.planning.plan import RequestPlan
from services.fetcher.routing.router import ProviderSelection
from services.runtime.bus import Bus
from services.runtime.schedules.calendar_store import read_calendars
from services.runtime.schedules.sessions import Calendar

# Trades are reported and quotes move for a while after the close; a day's bar is corrected until late at night.
SETTLES_IN_S = 900.0
DAY_SETTLES_IN_S = 12 * 3600.0
DAILY_OR_LONGER: tuple[Timeframe | None, ...] = ("1d", "1wk", "1mo")
WhyUnchanged = Literal["closed", "holiday"]

XNYS = "XNYS"
# A ticker without a suffix, or with a share class alone, is one of the United States with every vendor.
_PLAIN = re.compile(r"[A-Z]{1,5}(\.[ABC])?")


class MarketHours:
    """Says of one exchange and one kind of data whether a call made now could bring more than one made before.

    `delay_s`: how old the provider's newest data is.
    """

    def __init__(self, calendar: Calendar, dataset: Dataset, timeframe: Timeframe | None, delay_s: float) -> None:
        self._calendar = calendar
        self._dataset = dataset
        self._timeframe = timeframe
        self._settle_s = delay_s + (DAY_SETTLES_IN_S if timeframe in DAILY_OR_LONGER else SETTLES_IN_S)

    def why_unchanged(self, fetched_at: datetime, newest: datetime | None, now: datetime) -> WhyUnchanged | None:
        """Reason why no data can be new since an answer: the exchange is closed, for a holiday, or for the night or the weekend.

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
        if now.timestamp() < settled or fetched_at.timestamp() < settled or not self._covers_session(last, newest):
            return None
        is_workday = today.weekday() < 5
        return "holiday" if is_workday and not self._calendar.has_session(today) else "closed"

    def _covers_session(self, session: int, newest: datetime | None) -> bool:
        """True if an answer includes that session. Some vendors publish a day's bar only overnight, whatever delay they declare."""
        day = self._calendar.days[session]
        if self._dataset == "bars" and self._timeframe in (None, *DAILY_OR_LONGER):
            return newest is not None and newest >= day_start(period_start(day, self._timeframe or "1d"))
        if self._dataset == "bars":
            return newest is not None and newest.timestamp() >= self._calendar.hours[session][0]
        # A quote may be known by its date alone; the contracts of a chain were each traded some time.
        return self._dataset != "quote" or newest is None or newest >= day_start(day)


async def up_to_date(
    bus: Bus, plan: RequestPlan, probe: FetchTask, symbols: Sequence[str], choice: ProviderSelection
) -> dict[str, str]:
    """The symbols not worth a call, and why: `fresh`, fetched less than `max_age_s` ago, or `closed` or `holiday`: nothing is new.

    What counts is the last answer of anybody who would be asked now. A person who asks by hand gets all but what is fresh.

    Raises:
        nats.errors.Error: the bus does not answer.
    """
    now, max_age_s = datetime.now(UTC), plan.request.max_age_s
    hours = await _hours(bus, plan, probe, symbols, choice)
    if not max_age_s and not hours:
        return {}
    served = await last_events(bus, probe.dataset, probe.timeframe, symbols if max_age_s else list(hours))
    found: dict[str, str] = {}
    for symbol, event in served.items():
        if event.provider not in choice.names or not event.covers(probe.start, probe.end):
            continue
        if max_age_s and event.fetched_at >= now - timedelta(seconds=max_age_s):
            found[symbol] = "fresh"
        elif symbol in hours and (why := hours[symbol].why_unchanged(event.fetched_at, event.newest, now)):
            found[symbol] = why
    return found


def calendar_code_of(symbol: str, probe: FetchTask, named: str | None, *, real: bool) -> str | None:
    """Exchange calendar that bounds when a symbol can have new data; None: it trades round the clock, or no calendar is known.

    `named`: the calendar of the request. Without one only daily and longer bars of plain tickers have one (see decision 21).
    """
    if is_never_closed(symbol):
        return None
    if named is not None:
        return named
    return XNYS if real and probe.dataset == "bars" and probe.timeframe in DAILY_OR_LONGER and _PLAIN.fullmatch(symbol) else None


def is_never_closed(symbol: str) -> bool:
    """True for a currency or crypto pair, or a future, in any vendor's notation: BTC-USD, X:BTCUSD, EURUSD=X, ES=F."""
    name = symbol.upper().rpartition(":")[2]
    if name.startswith("/") or "=" in name:
        return True
    return pair_of(re.sub("[-_]", "", name)) is not None


async def _hours(
    bus: Bus, plan: RequestPlan, probe: FetchTask, symbols: Sequence[str], choice: ProviderSelection
) -> dict[str, MarketHours]:
    """The hours of each symbol that has some; none where it is not the latest that is asked for, or a person asks by hand."""
    if plan.lane == "manual" or plan.request.start is not None:
        return {}
    exchanges = {symbol: calendar_code_of(symbol, probe, plan.request.calendar, real=choice.real) for symbol in symbols}
    calendars = await read_calendars(bus.js, filter(None, exchanges.values()))
    known = {code: MarketHours(each, probe.dataset, probe.timeframe, choice.delay_s) for code, each in calendars.items()}
    return {symbol: known[code] for symbol, code in exchanges.items() if code in known}
