"""What a plan need not ask for: what is fresh enough, and what cannot have changed since the last answer."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from contracts.fetch_task import FetchTask
from services.fetcher.adapter.fields import pair_of
from services.fetcher.choose_provider import Choice
from services.fetcher.market_hours import OF_DAYS, MarketHours
from services.fetcher.plan import Plan
from services.fetcher.served import last_served
from services.runtime.bus import Bus
from services.runtime.schedules.calendar_store import read_calendars

XNYS = "XNYS"
# A ticker without a suffix, or with a share class alone, is one of the United States with every vendor.
_PLAIN = re.compile(r"[A-Z]{1,5}(\.[ABC])?")


async def needless(bus: Bus, plan: Plan, probe: FetchTask, symbols: Sequence[str], choice: Choice) -> dict[str, str]:
    """The symbols not worth a call, and why: `fresh`, fetched less than `max_age_s` ago, or `closed` or `holiday`: nothing is new.

    What counts is the last answer of anybody who would be asked now. A person who asks by hand gets all but what is fresh.

    Raises:
        nats.errors.Error: the bus does not answer.
    """
    now, max_age_s = datetime.now(UTC), plan.request.max_age_s
    hours = await _hours(bus, plan, probe, symbols, choice)
    if not max_age_s and not hours:
        return {}
    served = await last_served(bus, probe.dataset, probe.timeframe, symbols if max_age_s else list(hours))
    found: dict[str, str] = {}
    for symbol, event in served.items():
        if event.provider not in choice.names or not event.answers(probe.start, probe.end):
            continue
        if max_age_s and event.fetched_at >= now - timedelta(seconds=max_age_s):
            found[symbol] = "fresh"
        elif symbol in hours and (why := hours[symbol].nothing_new(event.fetched_at, event.newest, now)):
            found[symbol] = why
    return found


def exchange_of(symbol: str, probe: FetchTask, named: str | None, *, real: bool) -> str | None:
    """Whose hours say whether there can be anything new; None: it goes on round the clock, or nobody knows.

    `named`: the calendar of the request. Without one only daily and longer bars of plain tickers have one (see decision 21).
    """
    if is_never_closed(symbol):
        return None
    if named is not None:
        return named
    return XNYS if real and probe.dataset == "bars" and probe.timeframe in OF_DAYS and _PLAIN.fullmatch(symbol) else None


def is_never_closed(symbol: str) -> bool:
    """Whether it names a pair of currencies, crypto or not, or a future, in any vendor's way: BTC-USD, X:BTCUSD, EURUSD=X, ES=F."""
    name = symbol.upper().rpartition(":")[2]
    if name.startswith("/") or "=" in name:
        return True
    return pair_of(re.sub("[-_]", "", name)) is not None


async def _hours(bus: Bus, plan: Plan, probe: FetchTask, symbols: Sequence[str], choice: Choice) -> dict[str, MarketHours]:
    """The hours of each symbol that has some; none where it is not the latest that is asked for, or a person asks by hand."""
    if plan.lane == "manual" or plan.request.start is not None:
        return {}
    exchanges = {symbol: exchange_of(symbol, probe, plan.request.calendar, real=choice.real) for symbol in symbols}
    calendars = await read_calendars(bus.js, filter(None, exchanges.values()))
    known = {code: MarketHours(each, probe.dataset, probe.timeframe, choice.delay_s) for code, each in calendars.items()}
    return {symbol: known[code] for symbol, code in exchanges.items() if code in known}
