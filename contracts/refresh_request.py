"""`refresh.request.<lane>[.<job>]`: somebody wants prices refreshed."""

from datetime import date
from typing import Annotated

import msgspec

from contracts.datasets import DATASETS
from contracts.message import Dataset, JobId, Message, SymbolText, Text, Timeframe, UniverseName, UtcInstant

# More than a date can be reckoned back by; and no price is that old.
MAX_AGE_S = 100 * 365 * 86400.0


class RefreshRequest(Message, frozen=True, kw_only=True, tag="refresh_request.v1", forbid_unknown_fields=True):
    """A wish for fresh data of some symbols. Sent by the scheduler, the command line and people; received by the fetcher's planner.

    Every field has a default; one of `symbols` and `universe` must name somebody. `universe`: watchlist, active, or one that the
    fetcher's settings define; its symbols follow those named, in the order of their importance. The lane is the subject's.
    `start` (inclusive) and `end` (exclusive) are UTC days; without both the latest data is meant. Without `provider` the
    planner chooses one. `max_age_s`: leave alone what was fetched less than so many seconds ago. `wanted_at`: data as of
    this instant or later will do (default: the moment the request was accepted). `expires_at`: not worth a call after this.
    `max_symbols`: only the first so many. `calendar`: the exchange of its symbols, such as XNYS, but for pairs and futures; the
    latest is not asked for again while that was closed since the last answer, unless by hand. Of a job's slot: `slot_at`,
    `missed_slots` (slots since the last request that nobody asked for), `late` (it makes up for missed slots, or for its own; a
    job's jitter is no lateness).
    Unknown fields are refused, so that a misspelt one is not taken for a default.
    """

    symbols: list[SymbolText] = []
    universe: UniverseName | None = None
    dataset: Dataset = "bars"
    timeframe: Timeframe | None = None
    start: date | None = None
    end: date | None = None
    provider: Text | None = None
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    wanted_at: UtcInstant | None = None
    expires_at: UtcInstant | None = None
    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    job: JobId | None = None
    slot_at: UtcInstant | None = None
    missed_slots: Annotated[int, msgspec.Meta(ge=0)] = 0
    late: bool = False
    max_symbols: Annotated[int, msgspec.Meta(ge=1)] | None = None
    calendar: Text | None = None

    def __post_init__(self) -> None:
        if not self.symbols and self.universe is None:
            raise ValueError("symbols: name at least one, or a universe")
        if self.max_age_s is not None and self.max_age_s > MAX_AGE_S:
            raise ValueError(f"max_age_s: {self.max_age_s:g} is more than a hundred years, {MAX_AGE_S:.0f}")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(f"end: {self.end} is not after start {self.start}")
        if (self.start is None) != (self.end is None):
            raise ValueError("start, end: give both or none")
        if self.timeframe is not None and not DATASETS[self.dataset].timeframed:
            raise ValueError(f"timeframe: a {self.dataset} has none")
