"""Last event of a subject, read back from the stream so that no call is spent on the same data twice."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time

import msgspec
import nats.errors

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.message import Dataset, Timeframe, UtcInstant
from services.fetcher.adapter.fields import EPOCH
from services.runtime.bus import MAX_CLOCK_SKEW as MOST_SKEW
from services.runtime.bus import Bus


class LastEvent(msgspec.Struct, frozen=True):
    """The part of a price event that tells what it answers for."""

    provider: str
    fetched_at: UtcInstant
    at: msgspec.Raw = msgspec.Raw(b"null")
    asked_from: UtcInstant | None = None
    asked_to: UtcInstant | None = None

    def covers(self, start: date | None, end: date | None) -> bool:
        """True if the event answers exactly this date range (none: the latest)."""
        return (self.asked_from, self.asked_to) == (midnight(start), midnight(end))

    @property
    def newest(self) -> datetime | None:
        """The start of its last bar, or when its quote is from; None: it has none, or does not say."""
        try:
            found = msgspec.json.decode(self.at, type=list[UtcInstant | None] | UtcInstant | None)
        except msgspec.MsgspecError:
            return None
        return found if not isinstance(found, list) else found[-1] if found else None

    def satisfies(self, task: FetchTask) -> bool:
        """True if the event answers the task: same provider, same range, from a call that began at or after `wanted_at`."""
        new_enough = self.fetched_at >= task.wanted_at
        return self.provider == task.provider and new_enough and self.covers(task.start, task.end)


REQUEST_TIMEOUT_S = 5.0
_DIRECT_GET = f"$JS.API.DIRECT.GET.{subjects.PRICES}"
_decoder = msgspec.json.Decoder(LastEvent)


def midnight(day: date | None) -> datetime | None:
    """The UTC instant at which a day begins."""
    return datetime.combine(day, time(), UTC) if day else None


async def last_events(bus: Bus, dataset: Dataset, timeframe: Timeframe | None, symbols: Sequence[str]) -> dict[str, LastEvent]:
    """The last event of each symbol that has one. One that cannot be read counts as none: rather a call too many."""

    async def one(symbol: str) -> LastEvent | None:
        return await _direct_get(bus, {"last_by_subj": subjects.price(dataset, timeframe, symbol)})

    return await _by_symbol(symbols, one)


async def satisfying_events(bus: Bus, tasks: Sequence[FetchTask]) -> dict[str, LastEvent]:
    """The event that serves each of these tasks of one dataset and timeframe, by symbol, of those that have one."""
    of = {task.symbol: task for task in tasks}

    async def one(symbol: str) -> LastEvent | None:
        task = of[symbol]
        subject = subjects.price(task.dataset, task.timeframe, symbol)
        # For the most part there is none so new, and the server says so without reading the one there is.
        since = {"next_by_subj": subject, "start_time": (max(task.wanted_at, EPOCH) - MOST_SKEW).isoformat()}
        for wish in (since, {"last_by_subj": subject}):
            found = await _direct_get(bus, wish)
            if found is None or found.satisfies(task):
                return found
        return None

    return await _by_symbol(list(of), one)


async def _direct_get(bus: Bus, wish: Mapping[str, str]) -> LastEvent | None:
    # The client's own way to ask knows no start_time.
    try:
        reply = await bus.nc.request(_DIRECT_GET, json.dumps(wish).encode(), timeout=REQUEST_TIMEOUT_S)
        return None if reply.headers and "Status" in reply.headers else _decoder.decode(reply.data)
    except (nats.errors.Error, msgspec.MsgspecError, RecursionError):
        return None


async def _by_symbol(symbols: Sequence[str], one: Callable[[str], Awaitable[LastEvent | None]]) -> dict[str, LastEvent]:
    found = await asyncio.gather(*map(one, symbols))
    return {symbol: served for symbol, served in zip(symbols, found, strict=True) if served is not None}
