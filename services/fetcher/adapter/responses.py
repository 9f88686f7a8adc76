"""Readers of HTTP responses: body, error by status, retry time; and calls of several symbols or pages."""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from contracts.price_events import PriceEvent
from services.fetcher.provider import Answer, ProviderError, Reply, Verdict
from services.fetcher.retry_policy import RETRY_POLICIES

_MAX_LENGTH = 120
MAX_PAGES = 1000
MAX_RETRY_AFTER = timedelta(days=32)  # a quota's month

T = TypeVar("T")


def decode_json(reply: Reply) -> object | None:
    """Decode a body as JSON, whatever its content type says; None if it is no JSON."""
    try:
        return msgspec.json.decode(reply.body) if reply.body else None
    except (ValueError, RecursionError):  # no JSON, no text, or nested beyond measure
        return None


def decode_text(reply: Reply) -> str:
    """Decode a body as text."""
    return reply.body.decode("utf-8-sig", errors="replace").strip()


def sanitize(text: object, *secrets: str) -> str:
    """Sanitize a vendor's text for display: one short line without URLs, control characters and the secrets."""
    # The start alone: of a text of megabytes without a space the search below would take hours.
    words = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 5 * _MAX_LENGTH])
    line = re.sub(r"\S*://\S*|\bwww\.\S+", "…", " ".join(words.split()))
    for secret in filter(None, secrets):
        line = line.replace(secret, "***")
    return line if len(line) <= _MAX_LENGTH else line[:_MAX_LENGTH].rstrip() + "…"


def error_for_status(vendor: str, reply: Reply, now: datetime) -> ProviderError:
    """Map the status of a response without readable data to an error."""
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
    """Parse the `Retry-After` header (seconds or a date), at most MAX_RETRY_AFTER ahead; None if it is absent or past."""
    text = reply.headers.get("retry-after", "").strip()
    try:
        # A date without a zone is meant in UTC.
        date = parsedate_to_datetime(text) if not re.fullmatch(r"[0-9]{1,9}", text) else now + timedelta(seconds=int(text))
    except ValueError:
        return None
    at = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(at.astimezone(UTC), now + MAX_RETRY_AFTER) if at > now else None


def quota_window_end(text: str, now: datetime, zone: str) -> datetime | None:
    """End of the quota window that a text names (second, minute, hour, day, month), in the vendor's `zone`; None without one."""
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


def check_zone(vendor: str, name: str) -> str:
    """Check that a name is a time zone's and return it.

    Raises:
        ProviderError: malformed, when it is not.
    """
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ProviderError(Verdict.MALFORMED, f"{vendor}: {sanitize(name)!r} is no time zone we know") from None


async def fetch_in_groups(groups: Iterable[Sequence[str]], ask: Callable[[Sequence[str]], Awaitable[Answer]]) -> Answer:
    """Fetch each group of symbols in one call; an error that concerns the whole vendor skips the remaining groups.

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
                stop = error if RETRY_POLICIES[error.verdict].ends_batch else None
            else:
                events += answer.events
                failed |= answer.failed
        else:
            failed |= dict.fromkeys(group, stop)
    if stop is not None and not events and all(RETRY_POLICIES[error.verdict].ends_batch for error in failed.values()):
        raise stop
    return Answer(events, failed)


async def fetch_each(symbols: Iterable[str], ask: Callable[[str], Awaitable[Sequence[PriceEvent]]]) -> Answer:
    """Fetch each symbol in a call of its own; see `fetch_in_groups`."""

    async def one(group: Sequence[str]) -> Answer:
        return Answer(await ask(group[0]))

    return await fetch_in_groups(([symbol] for symbol in symbols), one)


async def fetch_pages(vendor: str, ask: Callable[[str], Awaitable[tuple[T, str]]]) -> list[T]:
    """Fetch all pages of a response. `ask` returns the page of a token and the next token: "" asks for the first and ends the last.

    A repeated token ends the pages.

    Raises:
        ProviderError: malformed, when there is no end.
    """
    pages: list[T] = []
    token, seen = "", {""}
    while len(pages) < MAX_PAGES:
        page, token = await ask(token)
        pages.append(page)
        if token in seen:
            return pages
        seen.add(token)
    raise ProviderError(Verdict.MALFORMED, f"{vendor}: an answer of more than {MAX_PAGES} pages; ask for a shorter range")
