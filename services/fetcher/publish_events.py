"""From a provider's answer to events on the bus: provenance, validation, pieces of at most MAX_ROWS rows."""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

import msgspec

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.price_events import MAX_ROWS, PriceActions, PriceBars, PriceChain, PriceEvent, PriceQuarantined
from services.fetcher.served import midnight
from services.fetcher.validate import validate
from services.runtime.bus import Bus

E = TypeVar("E", PriceBars, PriceChain)


async def publish_answer(bus: Bus, task: FetchTask, event: PriceEvent, called_at: datetime) -> int:
    """Publish one symbol's answer with the task's provenance; give the rows published. Returns when all of it is stored."""
    provenance = {"fetched_at": called_at, "request_id": task.request_id, "run_id": task.run_id, "fallback_from": task.tried}
    asked = {"asked_from": midnight(task.start), "asked_to": midnight(task.end)}
    event = msgspec.structs.replace(event, **provenance, **(asked if isinstance(event, PriceBars | PriceActions) else {}))
    if isinstance(event, PriceBars):
        event, broken = validate(event, called_at)
        if broken:
            await _quarantine(bus, event, broken)
    subject = subjects.price(task.dataset, task.timeframe, task.symbol)
    identity = f"{task.run_id}:{subject}:{called_at.timestamp()}"
    pieces = list(_pieces(event))
    await asyncio.gather(*(bus.publish(subject, piece, message_id=f"{identity}:{n}") for n, piece in enumerate(pieces)))
    return _count(event)


def _count(event: PriceEvent) -> int:
    match event:
        case PriceBars():
            return len(event.at)
        case PriceActions():
            return len(event.date)
        case PriceChain():
            return len(event.contract)
        case _:
            return 1


async def _quarantine(bus: Bus, event: PriceEvent, broken: list[tuple[datetime | None, str, str]]) -> None:
    kept = PriceQuarantined(
        symbol=event.symbol,
        provider=event.provider,
        feed=event.feed,
        observed_at=event.observed_at,
        fetched_at=event.fetched_at,
        currency=event.currency,
        request_id=event.request_id,
        run_id=event.run_id,
        dataset="bars",
        timeframe=event.timeframe if isinstance(event, PriceBars) else None,
        at=[at for at, _, _ in broken],
        rule=[rule for _, rule, _ in broken],
        row=[row for _, _, row in broken],
    )
    await bus.publish(subjects.price_quarantined(event.symbol), kept)


def _pieces(event: PriceEvent) -> Iterator[PriceEvent]:
    """The event, or several that follow each other: a range is divided where the rows are, a chain is numbered."""
    if isinstance(event, PriceBars) and len(event.at) > MAX_ROWS:
        cuts = range(0, len(event.at), MAX_ROWS)
        for i in cuts:
            start = event.at[i] if i and event.asked_from else event.asked_from
            end = event.at[i + MAX_ROWS] if i != cuts[-1] and event.asked_to else event.asked_to
            yield msgspec.structs.replace(_rows(event, i), asked_from=start, asked_to=end)
    elif isinstance(event, PriceChain) and len(event.contract) > MAX_ROWS:
        cuts = range(0, len(event.contract), MAX_ROWS)
        for number, i in enumerate(cuts, 1):
            yield msgspec.structs.replace(_rows(event, i), part=number, parts=len(cuts))
    else:
        yield event


def _rows(event: E, start: int) -> E:
    """The event with MAX_ROWS rows from `start` on."""
    columns = {
        name: value[start : start + MAX_ROWS]
        for name in event.__struct_fields__
        if isinstance(value := getattr(event, name), list) and name != "fallback_from"
    }
    return msgspec.structs.replace(event, **columns)
