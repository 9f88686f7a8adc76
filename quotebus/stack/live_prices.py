"""Prices as they stream by, a few plain lines a second."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from nats.aio.client import Client

from contracts import subjects
from contracts.message import decode
from contracts.price_events import PriceBars, PriceQuote
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunFinished
from quotebus import client
from quotebus.client import AnyPrice, event_of
from services.runtime.follow import follow_stream

Shown = PriceBars | PriceQuote
LINES_A_TURN, TURN_S = 5, 1.0


async def show_prices(nats_url: str, since: datetime, say: Callable[[str], None]) -> None:
    """Say what prices came since that instant, and how runs ended, for as long as it is let."""
    latest = LatestPrices()
    async with client.connect(nats_url, timeout_s=30) as connected, asyncio.TaskGroup() as group:
        group.create_task(_collect(connected.nc, since, latest))
        group.create_task(_report_runs(connected.nc, since, say))
        while True:
            await asyncio.sleep(TURN_S)
            events, more = latest.take(LINES_A_TURN)
            for event in events:
                say(price_line(event, datetime.now(UTC)))
            if more:
                say(f"  and {more} more series")


async def ask_for(nats_url: str, requests: Sequence[RefreshRequest]) -> None:
    """Put requests on the bus without waiting for what becomes of them."""
    async with client.connect(nats_url, timeout_s=30) as connected:
        for request in requests:
            await connected.request_refresh(request)


class LatestPrices:
    """Keeps of each series what came last, until it is taken a few at a time."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Shown] = {}

    def add(self, event: AnyPrice) -> None:
        """Remember the event if it holds a price."""
        if isinstance(event, PriceQuote) and event.price is not None:
            series = event.symbol, "quote"
        elif isinstance(event, PriceBars) and event.at:
            series = event.symbol, event.timeframe
        else:
            return
        # Taken out first, so that the order is that of the latest arrivals.
        self._waiting.pop(series, None)
        self._waiting[series] = event

    def take(self, most: int) -> tuple[list[Shown], int]:
        """The newest `most` of what came since the last time, and how many more there were."""
        events = list(self._waiting.values())[::-1]
        self._waiting.clear()
        return events[:most], max(0, len(events) - most)


async def _collect(nc: Client, since: datetime, latest: LatestPrices) -> None:
    async for batch in follow_stream(nc, subjects.PRICES, "price.>", since):
        for message in batch.messages:
            if event := event_of(message.subject, message.data):
                latest.add(event)


async def _report_runs(nc: Client, since: datetime, say: Callable[[str], None]) -> None:
    async for batch in follow_stream(nc, subjects.RUNS, subjects.run("finished", "*"), since):
        for message in batch.messages:
            say(run_line(decode(message.data, RunFinished)))


def price_line(event: Shown, now: datetime) -> str:
    """Symbol, price, what it is, provider and age, in columns."""
    price = event.close[-1] if isinstance(event, PriceBars) else event.price
    what = f"{event.timeframe} bars" if isinstance(event, PriceBars) else "quote"
    age = max(0.0, (now - event.observed_at).total_seconds())
    made_up = "  (made up)" if event.feed == "synthetic" else ""
    return (
        f"  {event.symbol:<10} {price:>12,.4f} {event.currency or '':<3}  {what:<9} {event.provider:<14} {_span(age)} old{made_up}"
    )


def run_line(event: RunFinished) -> str:
    """Format a finished run: its job, its outcomes and its calls."""
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(event.counts.items()) if number)
    why = "; `quotebus dead ls` says why" if event.refused or event.counts.get("failed") else ""
    who = event.job or "by hand"
    return f"  run {event.run_id} ({who}) is done: {counts or 'nothing to do'}; {sum(event.calls.values())} calls{why}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
