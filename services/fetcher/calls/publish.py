"""From a provider's answer to events on the bus: provenance, validation, and the event that says "asked, and nothing there"."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from contracts import subjects
from contracts.datasets import dataset_of
from contracts.fetch_task import FetchTask
from contracts.price_events import Delay, PriceBars, PriceEvent, PriceIv, PriceQuarantined, PriceQuote
from services.fetcher.adapter.events import EventBuilder, Quote
from services.fetcher.calls.validation import Broken, validate, validate_facts
from services.fetcher.derived.implied_volatility import no_iv
from services.fetcher.provider import FetchCall, Profile, ProviderError, Verdict, providers
from services.runtime.bus import Bus


async def publish_answer(bus: Bus, profile: Profile, task: FetchTask, events: Sequence[PriceEvent], called_at: datetime) -> int:
    """Publish one symbol's answer with the task's provenance; give the rows published. Returns when all of it is stored.

    Raises:
        ProviderError: malformed, when it is a quote that breaks a rule: it is in quarantine, and the last good one stays.
    """
    subject = subjects.price(task.dataset, task.timeframe, task.symbol)
    identity = f"{task.run_id}:{subject}:{called_at.timestamp()}"
    publishing = []
    rows = 0
    for number, answered in enumerate(events):
        event = msgspec.structs.replace(
            answered,
            fetched_at=called_at,
            request_id=task.request_id,
            run_id=task.run_id,
            # Left out where empty: every list of an event is a column of its rows.
            fallback_from=task.fallback_from or task.tried or msgspec.UNSET,
            fallback_reason=task.fallback_reason,
            delay=_delay(profile, answered),
        )
        whole = event
        event, broken = validate(whole, called_at) if isinstance(whole, PriceBars) else validate_facts(whole, called_at)
        if broken:
            publishing.append(bus.publish(subjects.price_quarantined(task.symbol), _quarantined(task, whole, broken)))
        if broken and isinstance(whole, PriceQuote):
            await asyncio.gather(*publishing)
            problem = f"{whole.provider}: its quote is in quarantine, it broke the rule {broken[0][1]}"
            raise ProviderError(Verdict.MALFORMED, problem)
        rows += dataset_of(event).rows(event)
        publishing.append(bus.publish(subject, event, message_id=f"{identity}:{number}"))
    await asyncio.gather(*publishing)
    return rows


def empty_answer(profile: Profile, task: FetchTask, called_at: datetime) -> Sequence[PriceEvent]:
    """The event of a range that was asked for and holds nothing: it is no gap, and no made-up bar."""
    call = FetchCall(task.dataset, (task.symbol,), task.timeframe, task.start, task.end)
    return EMPTY[task.dataset](EventBuilder(profile, call, task.symbol, called_at))


# What says of each dataset that it was asked, and nothing is there.
EMPTY: Mapping[str, Callable[[EventBuilder], Sequence[PriceEvent]]] = {
    "bars": lambda asked: asked.bars([]),
    "quote": lambda asked: [asked.quote(Quote())],
    "chain": lambda asked: asked.chain([]),
    "iv": lambda asked: [no_iv(asked.symbol, asked.profile.name, asked.now)],
    "actions": lambda asked: [asked.actions([])],
}


def _delay(profile: Profile, event: PriceEvent) -> Delay | None:
    if isinstance(event, PriceIv):
        source = providers().get(event.chain_provider or "")
        return _delay_of(source.profile, event.feed) if source else None
    return _delay_of(profile, event.feed)


def _delay_of(profile: Profile, feed: str) -> Delay:
    if feed == "eod":
        return "end_of_day"
    return "delayed" if profile.delay_s or feed == "delayed" else "real_time"


def _quarantined(task: FetchTask, event: PriceEvent, broken: Sequence[Broken]) -> PriceQuarantined:
    return PriceQuarantined(
        symbol=event.symbol,
        provider=event.provider,
        feed=event.feed,
        observed_at=event.observed_at,
        fetched_at=event.fetched_at,
        currency=event.currency,
        request_id=event.request_id,
        run_id=event.run_id,
        dataset=task.dataset,
        timeframe=task.timeframe,
        at=[at for at, _, _ in broken],
        rule=[rule for _, rule, _ in broken],
        row=[row for _, _, row in broken],
    )
