"""Price events as they come, for one reader: pulled from the stream no faster than they are taken, so nothing piles up."""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from contracts import subjects
from services.gateway.errors import NATS_TROUBLE, field_problem
from services.runtime.bus import Bus
from services.runtime.puller import Puller

BATCH = 64
# A reader who has gone away is noticed after so long at the latest.
LOOK_S = 1.0
_GONE_AFTER_S = 60.0
_RETRY_S = 0.5
_WORD = r"(?:\*|[^\s.*>]+)"
_PATTERN = re.compile(rf"(?:{_WORD}\.)*(?:{_WORD}|>)")

From = Literal["now", "last"]
log = structlog.get_logger()


@dataclass(frozen=True)
class Gap:
    """Events from `first` to `last` (their numbers on the stream) are no longer there, or the stream was made anew."""

    first: int
    last: int


def price_pattern(text: str) -> str:
    """The subject that is meant: `quote.*`, `bars.1d.AAPL` or `price.quote.*`; wildcards as NATS has them.

    Raises:
        Problem: 400.
    """
    subject = text if text.startswith("price.") else f"price.{text}"
    if not _PATTERN.fullmatch(subject) or len(subject) > 256 or not subject.isprintable():
        raise field_problem(400, "subject", f"{text[:80]!r} is no pattern; give `quote.*`, `bars.1d.AAPL`, `*.BRK_B` or `>`")
    return subject


class Live:
    """The events of one pattern, from a place in the stream on, whatever happens to the server."""

    def __init__(self, bus: Bus, subject: str, start: From, after: int | None) -> None:
        self._bus = bus
        self._subject = subject
        self._start = start
        self._seen = after
        self._gap: Gap | None = None

    async def open(self) -> None:
        """Take the place from which on nothing is left out.

        Raises:
            nats.errors.Error: the server did not answer.
        """
        self._gap = await self._missing()

    async def events(self) -> AsyncGenerator[list[Msg] | Gap, None]:
        """Give batches as they come; an empty one every second in which none does, so that the reader can be looked after."""
        while True:
            if self._gap is not None:
                gap, self._gap = self._gap, None
                yield gap
            name = f"gateway-{secrets.token_hex(8)}"
            try:
                # Since it was opened the server may have lost what was to come.
                self._gap = await self._missing()
                if self._gap is not None:
                    continue
                await self._bus.js.add_consumer(subjects.PRICES, self._terms(name))
            except NATS_TROUBLE as error:
                log.debug("stream_waits", error=str(error) or type(error).__name__)
                yield []
                await asyncio.sleep(_RETRY_S)
                continue
            puller = Puller(self._bus, subjects.PRICES, name)
            try:
                while not puller.failures:
                    batch = await puller.pull(BATCH, LOOK_S)
                    yield batch
                    if batch:
                        self._seen = batch[-1].metadata.sequence.stream
            finally:
                await self._end(puller, name)

    async def _missing(self) -> Gap | None:
        """What the reader has not seen and never will; from now on everything is told from its place on."""
        state = (await self._bus.js.stream_info(subjects.PRICES)).state
        if self._seen is None:
            # Whatever happens to the server later: from here on nothing is left out.
            self._seen = state.last_seq if self._start == "now" else None
            return None
        if self._seen > state.last_seq:
            gap = Gap(1, state.last_seq)
        elif self._seen + 1 < state.first_seq:
            gap = Gap(self._seen + 1, state.first_seq - 1)
        else:
            return None
        self._seen = gap.last
        return gap

    def _terms(self, name: str) -> ConsumerConfig:
        terms = ConsumerConfig(
            name=name,
            filter_subject=self._subject,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=_GONE_AFTER_S,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
        )
        if self._seen is None:
            return terms
        return terms.evolve(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._seen + 1)

    async def _end(self, puller: Puller, name: str) -> None:
        await puller.close()
        with suppress(NatsError, APIError):
            await self._bus.js.delete_consumer(subjects.PRICES, name)
