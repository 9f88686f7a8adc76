"""What a reply says before its data is read: the verdict of a status, the text of a body, when to come back."""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from contracts.price_events import PriceEvent
from services.fetcher.provider import Answer, ProviderError, Reply, Verdict

# The vendor as a whole does not answer: asking for the next symbol would only cost another call.
_STOPPING = frozenset({Verdict.RATE_LIMITED, Verdict.UNAUTHORIZED, Verdict.SERVER_ERROR, Verdict.TIMEOUT})
_SHORT = 120
MOST_PAGES = 1000
LONGEST_REST = timedelta(days=32)  # a quota's month

T = TypeVar("T")


def json_in(reply: Reply) -> object | None:
    """The body's JSON, whatever its content type says; None if it is none."""
    try:
        return msgspec.json.decode(reply.body) if reply.body else None
    except (ValueError, RecursionError):  # no JSON, no text, or nested beyond measure
        return None


def text_in(reply: Reply) -> str:
    """The body as text."""
    return reply.body.decode("utf-8-sig", errors="replace").strip()


def said(text: object, *secrets: str) -> str:
    """A vendor's words, fit to be shown: one short line without web addresses, control characters and the secrets."""
    # The start alone: of a text of megabytes without a space the search below would take hours.
    words = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 5 * _SHORT])
    line = re.sub(r"\S*://\S*|\bwww\.\S+", "…", " ".join(words.split()))
    for secret in filter(None, secrets):
        line = line.replace(secret, "***")
    return line if len(line) <= _SHORT else line[:_SHORT].rstrip() + "…"


def refusal(vendor: str, reply: Reply, now: datetime) -> ProviderError:
    """The error that an answer without readable data stands for, by its status."""
    status = reply.status
    if status == 429:
        return ProviderError(Verdict.RATE_LIMITED, f"{vendor}: too many requests", retry_after(reply, now))
    if status == 402:
        return ProviderError(Verdict.PLAN_RESTRICTED, f"{vendor}: the plan of this key does not include it")
    if status == 401:
        return ProviderError(Verdict.UNAUTHORIZED, f"{vendor}: the key is not accepted")
    if status in (403, 408) or status >= 500:
        # A page instead of an answer to 403 is an edge server's block, not the vendor's word on the key.
        return ProviderError(Verdict.SERVER_ERROR, f"{vendor}: answered {status}", retry_after(reply, now))
    if 300 <= status < 400:
        return ProviderError(Verdict.SERVER_ERROR, f"{vendor}: sent us on to another page ({status}), which is not followed")
    if 400 <= status < 500:
        return ProviderError(Verdict.MALFORMED, f"{vendor}: answered {status} without saying why")
    kind = "a web page" if reply.body.lstrip()[:1] == b"<" else "something else" if reply.body.strip() else "nothing"
    return ProviderError(Verdict.MALFORMED, f"{vendor}: answered {kind} instead of data")


def retry_after(reply: Reply, now: datetime) -> datetime | None:
    """When the `Retry-After` header says to come back: seconds or a date, LONGEST_REST at most; one that is past says nothing."""
    text = reply.headers.get("retry-after", "").strip()
    try:
        # A date without a zone is meant in UTC.
        date = parsedate_to_datetime(text) if not re.fullmatch(r"[0-9]{1,9}", text) else now + timedelta(seconds=int(text))
    except ValueError:
        return None
    at = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(at.astimezone(UTC), now + LONGEST_REST) if at > now else None


def window_end(text: str, now: datetime, zone: str) -> datetime | None:
    """When the window a refusal names (second, minute, hour, day, month) is over in the vendor's `zone`; None if it names none."""
    words = text.lower()
    local = now.astimezone(ZoneInfo(zone))
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if "month" in words:
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).astimezone(UTC)
    if "day" in words or "daily" in words:
        return (midnight + timedelta(days=1)).astimezone(UTC)
    if "hour" in words:
        return (now + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    if "minute" in words:
        return now + timedelta(minutes=1)
    return now + timedelta(seconds=1) if "second" in words else None


def zone_named(vendor: str, name: str) -> str:
    """The name, if it is that of a time zone.

    Raises:
        ProviderError: malformed, when it is not.
    """
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ProviderError(Verdict.MALFORMED, f"{vendor}: {said(name)!r} is no time zone we know") from None


async def group_by_group(groups: Iterable[Sequence[str]], ask: Callable[[Sequence[str]], Awaitable[Answer]]) -> Answer:
    """Ask for the symbols of each group at once; after an error that concerns the whole vendor the rest is not asked.

    Raises:
        ProviderError: such an error, and no symbol had an answer before it.
    """
    events: list[PriceEvent] = []
    failed: dict[str, ProviderError] = {}
    stop: ProviderError | None = None
    for group in groups:
        if stop is None:
            try:
                answer = await ask(group)
            except ProviderError as error:
                failed |= dict.fromkeys(group, error)
                stop = error if error.verdict in _STOPPING else None
            else:
                events += answer.events
                failed |= answer.failed
        else:
            failed |= dict.fromkeys(group, stop)
    if stop is not None and not events and all(error.verdict in _STOPPING for error in failed.values()):
        raise stop
    return Answer(events, failed)


async def one_by_one(symbols: Iterable[str], ask: Callable[[str], Awaitable[Sequence[PriceEvent]]]) -> Answer:
    """Ask for each symbol on its own; see `group_by_group`."""

    async def one(group: Sequence[str]) -> Answer:
        return Answer(await ask(group[0]))

    return await group_by_group(([symbol] for symbol in symbols), one)


async def every_page(vendor: str, ask: Callable[[str], Awaitable[tuple[T, str]]]) -> list[T]:
    """The pages of an answer. `ask` gives the page of a token and the token of the next: "" asks for the first and ends the last.

    A token that comes again is taken for the end.

    Raises:
        ProviderError: malformed, when there is no end.
    """
    pages: list[T] = []
    token, seen = "", {""}
    while len(pages) < MOST_PAGES:
        page, token = await ask(token)
        pages.append(page)
        if token in seen:
            return pages
        seen.add(token)
    raise ProviderError(Verdict.MALFORMED, f"{vendor}: an answer of more than {MOST_PAGES} pages; ask for a shorter range")
