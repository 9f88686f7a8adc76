"""The provider protocol: what an adapter declares, receives and returns, and every way in which it may fail."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import ClassVar, NamedTuple, Protocol

from contracts.message import Basis, Dataset, Timeframe
from contracts.price_events import PriceEvent


class Verdict(StrEnum):
    """Verdict on a call or symbol without data: the closed list. `retry_policy.py` holds what follows from each."""

    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    PLAN_RESTRICTED = "plan_restricted"
    NOT_FOUND = "not_found"
    EMPTY = "empty"
    BAD_REQUEST = "bad_request"
    MALFORMED = "malformed"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"


class ProviderError(Exception):
    """Failure of a call, or of one symbol of it.

    `message`: one line for people, without keys or full URLs. `retry_at`: when the provider said to come back, UTC.
    `renamed_to`: with not_found, the symbol's new name where the vendor gives it, in canonical spelling.
    """

    def __init__(self, verdict: Verdict, message: str, retry_at: datetime | None = None, *, renamed_to: str | None = None) -> None:
        super().__init__(f"{verdict}: {message}")
        self.verdict = verdict
        self.message = message
        self.retry_at = retry_at
        self.renamed_to = renamed_to


class LedgerError(Exception):
    """The quota ledger does not answer, or belongs to another deployment: no fault of the provider's, and no call."""


@dataclass(frozen=True)
class Limits:
    """Quota of a provider: calls per window; None: no such limit. `day_zone`: where its day and month begin.

    `symbols_per_month`: different symbols that may be asked for in a month, however often.
    """

    per_second: int | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    per_month: int | None = None
    symbols_per_month: int | None = None
    day_zone: str = "UTC"


@dataclass(frozen=True)
class Profile:
    """Static description of a provider, by which the planner chooses.

    `offers`: datasets, and for bars the timeframes. `basis`: what its bars are adjusted for. `feed`: its class of source,
    `eod`, `delayed`, `iex`, `venue` (of some venues alone), `sip`, `consolidated` or `synthetic`. `delay_s`: how old its
    newest data is at best. `symbols_per_call`: at most so many in one call, by dataset (1 where not named).
    `every_symbol_counts`: each symbol of a call takes a permit. `limits`: its free
    plan's. `secrets`: settings it cannot work without. `real`: false for a made-up market, which never stands in for a real one.
    `login_lasts`: how long a person's login serves where access hangs on one; its tokens are then shared by all replicas.
    `is_local`: it makes what it gives of what is stored, at no call. `explicit_only`: datasets it gives only where it is named.
    """

    name: str
    base_url: str
    offers: Mapping[Dataset, tuple[Timeframe, ...]]
    basis: Basis
    feed: str
    delay_s: float = 0.0
    symbols_per_call: Mapping[Dataset, int] = field(default_factory=dict)
    every_symbol_counts: bool = False
    limits: Limits = field(default_factory=Limits)
    secrets: tuple[str, ...] = ("api_key",)
    real: bool = True
    login_lasts: timedelta | None = None
    is_local: bool = False
    explicit_only: frozenset[Dataset] = frozenset()

    def offers_series(self, dataset: Dataset, timeframe: Timeframe | None) -> bool:
        """True if it has this dataset, and for bars this timeframe."""
        return dataset in self.offers and (timeframe is None or timeframe in self.offers[dataset])


class StoredValue(NamedTuple):
    """Value of a store and its revision; nothing stored is empty."""

    value: bytes = b""
    revision: int = 0


class TokenStore(Protocol):
    """Store of one account's tokens, shared by all replicas; never readable outside the process.

    Raises:
        ProviderError: server_error when the store does not answer.
    """

    async def read(self) -> StoredValue: ...

    async def write(self, value: bytes, revision: int) -> int | None:
        """Replace the value of that revision and return the new revision; None, and nothing written, if another was first."""
        ...


@dataclass(frozen=True)
class Credentials:
    """Credentials and options of one provider's account. Keys never show in a repr. `tokens`: None if they are not shared."""

    api_key: str = field(default="", repr=False)
    api_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    dataset: str = ""
    options: Mapping[str, str | float] = field(default_factory=dict)
    tokens: TokenStore | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FetchCall:
    """Input of one call: canonical symbols; UTC days, `start` inclusive, `end` exclusive, both None: the latest."""

    dataset: Dataset
    symbols: tuple[str, ...]
    timeframe: Timeframe | None = None
    start: date | None = None
    end: date | None = None


@dataclass(frozen=True)
class Answer:
    """Result of one call: events in any order, several of one symbol where it has many rows, and an error for each without any.

    A symbol in neither was left out by the vendor: it is not found. An event's `request_id`, `run_id` and `fetched_at`
    are the caller's to set. Prices are in the major unit.
    """

    events: Sequence[PriceEvent] = ()
    failed: Mapping[str, ProviderError] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """HTTP response, complete: any status, header names in lower case, a body within the size cap."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http(Protocol):
    """HTTP client of an adapter: every request takes its own permit first, so that no call is uncounted.

    `path` is the vendor's own, after the base URL's host; a whole https URL keeps its host where it is of the same site.
    Redirects are not followed: they come back as a `Reply`.

    Raises:
        ProviderError: timeout or server_error when no whole answer came; malformed when the body is larger than the cap;
            rate_limited when the quota has no permit left.
    """

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, cost: int = 1
    ) -> Reply: ...

    async def post_form(
        self, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None, cost: int = 1
    ) -> Reply: ...


class Provider(Protocol):
    """Adapter of one vendor. Built once per process; `fetch` may run several times at once."""

    profile: ClassVar[Profile]

    def __init__(self, access: Credentials) -> None: ...

    def to_vendor(self, symbol: str) -> str:
        """Return the vendor's spelling of a canonical symbol; a symbol already in that spelling stays as it is."""
        ...

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        """Fetch what the call asks for, following pages and windows to the end. `now` decides what can still change.

        Raises:
            ProviderError: the call as a whole failed.
        """
        ...


@cache
def providers() -> dict[str, type[Provider]]:
    """Discover the providers by name: `PROVIDER` of each module and package in `providers` without a leading underscore."""
    folder = importlib.import_module("services.fetcher.providers")
    found = {}
    for module in pkgutil.iter_modules(folder.__path__):
        if module.name.startswith("_"):
            continue
        provider: type[Provider] = importlib.import_module(f"{folder.__name__}.{module.name}").PROVIDER
        found[provider.profile.name] = provider
    return found


def refuse_unoffered(profile: Profile, call: FetchCall) -> None:
    """Raise bad_request for what the provider does not have, before any call is spent."""
    if call.dataset not in profile.offers:
        have = ", ".join(profile.offers)
        raise ProviderError(Verdict.BAD_REQUEST, f"{profile.name} has no {call.dataset}; it has {have}")
    if call.timeframe is not None and call.timeframe not in profile.offers[call.dataset]:
        have = ", ".join(profile.offers[call.dataset])
        raise ProviderError(Verdict.BAD_REQUEST, f"{profile.name} has no {call.timeframe} bars; it has {have}")
