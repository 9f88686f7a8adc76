"""Price events of one pattern for one reader, from a place in the stream on, read no faster than they are taken."""

import re
from collections.abc import AsyncGenerator
from typing import Literal

from nats.aio.client import Client
from nats.js.api import DeliverPolicy

from contracts import subjects
from services.gateway.errors import field_problem
from services.runtime.follow import Batch, Start, follow_stream

# A reader who has gone away is noticed after so long at the latest.
IDLE_S = 1.0
_WORD = r"(?:\*|[^\s.*>]+)"
_PATTERN = re.compile(rf"(?:{_WORD}\.)*(?:{_WORD}|>)")

From = Literal["now", "last"]


def price_pattern(text: str) -> str:
    """The subject that is meant: `quote.*`, `bars.1d.AAPL` or `price.quote.*`; wildcards as NATS has them.

    Raises:
        Problem: 400.
    """
    subject = text if text.startswith("price.") else f"price.{text}"
    if not _PATTERN.fullmatch(subject) or len(subject) > 256 or not subject.isprintable():
        raise field_problem(400, "subject", f"{text[:80]!r} is no pattern; give `quote.*`, `bars.1d.AAPL`, `*.BRK_B` or `>`")
    return subject


def follow_events(nc: Client, subject: str, start: From, after: int | None) -> AsyncGenerator[Batch, None]:
    """Follow the events of a pattern, from the one after the number `after` if there is one; see `follow_stream`."""
    begin: Start = DeliverPolicy.NEW if start == "now" else DeliverPolicy.LAST_PER_SUBJECT
    return follow_stream(nc, subjects.PRICES, subject, begin if after is None else after + 1, idle_s=IDLE_S)
