"""From a message to an event that can be stored as it is, or the reason why not, naming the field."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import gt
from typing import Any, NamedTuple

import msgspec

from contracts.datasets import DATASETS, dataset_of
from contracts.message import BASES, TIMEFRAMES, Dataset
from contracts.price_events import (
    BAR_COLUMNS,
    BarColumn,
    PriceActions,
    PriceBars,
    PriceChain,
    PriceEvent,
    PriceIv,
    PriceQuarantined,
    PriceQuote,
)
from contracts.subjects import symbol_token
from services.cacher.binary_copy import BarValues, Instants, bar_values

# A wrong clock must not give a series an observation that nothing true can be newer than.
FUTURE_TOLERANCE = timedelta(days=1)
MAX_NAME_CHARACTERS = 64
_MOST_COUNTED, _MOST_INT8 = 2**31 - 1, 2**63 - 1
_ADVICE = ": after an update of the cacher `quotebus dead retry` has it stored"
_COUNTS = [column for column in BAR_COLUMNS if column.unit == "count"]
_EARLIEST, _LATEST = datetime(1700, 1, 1, tzinfo=UTC), datetime(2250, 1, 1, tzinfo=UTC)
_PERIOD = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
    "1wk": timedelta(days=7),
    "1mo": timedelta(days=28),
}


class SeriesKey(NamedTuple):
    """Key of a series, never mixed with another. `timeframe` is empty where the dataset has none, `basis` for all but bars."""

    symbol: str
    dataset: Dataset
    timeframe: str
    basis: str
    feed: str


@dataclass(frozen=True, slots=True)
class DecodedEvent:
    """A valid event. It answers for `at_from <= at < at_to`."""

    event: PriceEvent
    key: SeriesKey
    at_from: datetime
    at_to: datetime
    rows: int
    bars: BarValues | None = None


class MalformedEventError(ValueError):
    """The message is no event of its subject; the text names the field."""


class EventDecoder:
    """Reads the messages of PRICES."""

    def __init__(self) -> None:
        kinds: dict[str, type[PriceEvent | PriceQuarantined]] = {name: each.event for name, each in DATASETS.items()}
        kinds["quarantined"] = PriceQuarantined
        self._decoders = {kind: msgspec.json.Decoder(contract) for kind, contract in kinds.items()}
        self._instants = Instants()

    def decode(self, subject: str, body: bytes) -> DecodedEvent | PriceQuarantined | None:
        """The event; none for what the cacher itself published.

        Raises:
            MalformedEventError: it can never be stored.
        """
        _, kind, *rest = subject.split(".")
        if kind == "corrected":
            return None
        decoder = self._decoders.get(kind)
        if decoder is None:
            raise MalformedEventError(f"subject: this version knows no price.{kind}{_ADVICE}")
        try:
            event = decoder.decode(body)
            _check_provenance(event, rest[-1])
            if isinstance(event, PriceQuarantined):
                return event
            return self._observed(event, rest)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise MalformedEventError(str(error)) from error

    def _observed(self, event: PriceEvent, rest: list[str]) -> DecodedEvent:
        dataset = dataset_of(event)
        if isinstance(event, PriceBars) and event.timeframe != rest[0]:
            raise ValueError(f"timeframe: {event.timeframe} on a subject of {rest[0]}")
        CHECKS[dataset.name](event)
        if isinstance(event, PriceBars):
            return _observed_bars(event, bar_values(event, self._instants))
        low = getattr(event, "asked_from", None) or event.observed_at
        high = getattr(event, "asked_to", None) or event.observed_at
        rows = 1 if dataset.index is None else dataset.rows(event)
        return DecodedEvent(event, SeriesKey(event.symbol, dataset.name, "", "", event.feed), low, max(low, high), rows)


def _observed_bars(event: PriceBars, bars: BarValues) -> DecodedEvent:
    at_from = at_to = event.observed_at
    if event.at:
        at_from, at_to = event.at[0], event.at[-1] + _PERIOD[event.timeframe]
    if event.asked_from and event.asked_to:
        at_from = min(at_from, event.asked_from) if event.at else event.asked_from
        at_to = max(at_to, event.asked_to) if event.at else max(event.asked_from, event.asked_to)
    key = SeriesKey(event.symbol, "bars", event.timeframe, event.basis, event.feed)
    return DecodedEvent(event, key, at_from, at_to, len(event.at), bars)


def _check_provenance(event: PriceEvent | PriceQuarantined, token: str) -> None:
    if symbol_token(event.symbol) != token:
        raise ValueError(f"symbol: {event.symbol!r} on a subject of {token}")
    for name in ("feed", "provider", "currency", "chain_provider"):
        value = getattr(event, name, None)
        if value is not None and (not 0 < len(value) <= MAX_NAME_CHARACTERS or "\0" in value):
            raise ValueError(f"{name}: {value[:80]!r}; give 1 to {MAX_NAME_CHARACTERS} characters")
    if "\0" in event.symbol:
        raise ValueError(f"symbol: {event.symbol!r} holds a null character")
    for name in ("observed_at", "fetched_at"):
        instant = getattr(event, name)
        _check_instants(name, [instant])
        if instant > datetime.now(UTC) + FUTURE_TOLERANCE:
            raise ValueError(f"{name}: {instant.isoformat()} is in the future")


def _check_bars(event: PriceBars) -> None:
    _check_known("timeframe", [event.timeframe], TIMEFRAMES)
    _check_known("basis", [event.basis], BASES)
    _check_instants("at", event.at[:1] + event.at[-1:])
    _check_instants("asked_from, asked_to", [instant for instant in (event.asked_from, event.asked_to) if instant])
    for lower, upper in (("low", "open"), ("low", "close"), ("open", "high"), ("close", "high")):
        below, above = getattr(event, lower), getattr(event, upper)
        if any(map(gt, below, above)):
            row = next(i for i, (a, b) in enumerate(zip(below, above, strict=True)) if a > b)
            raise ValueError(f"{lower}: {below[row]} is above {upper} {above[row]} at {event.at[row].isoformat()}")
    for column in _COUNTS:
        _check_counts(column, getattr(event, column.name) or ())


def _check_counts(column: BarColumn, values: Sequence[float | None]) -> None:
    if min(filter(None, values), default=0) < 0:
        raise ValueError(f"{column.name}: a {column.name} is never negative")
    if column.type == "int8" and max(filter(None, values), default=0) > _MOST_INT8:
        raise ValueError(f"{column.name}: more than {_MOST_INT8} are not to be counted")


def _check_quote(event: PriceQuote) -> None:
    _check_instants("at", [event.at] if event.at else [])
    _check_numbers(event, "volume")


def _check_actions(event: PriceActions) -> None:
    _check_known("kind", event.kind, ("split", "dividend"))


def _check_chain(event: PriceChain) -> None:
    _check_known("right", event.right, ("call", "put"))
    if len(event.at) != len(event.contract):
        raise ValueError(f"at: {len(event.at)} values for {len(event.contract)} rows")
    if len(set(event.contract)) != len(event.contract):
        raise ValueError("contract: the same contract twice")
    _check_instants("at", [instant for instant in event.at if instant])


def _check_volatility(event: PriceIv) -> None:
    _check_instants("at", [event.at] if event.at else [])
    _check_numbers(event, "iv_30d", "iv_rank", "iv_percentile", "history_days")
    for name in ("iv_rank", "iv_percentile"):
        if (getattr(event, name) or 0) > 1:
            raise ValueError(f"{name}: {getattr(event, name)} is more than 1, the whole")
    if max(event.history_days, *event.contracts, 0) > _MOST_COUNTED:
        raise ValueError(f"history_days, contracts: more than {_MOST_COUNTED} are not to be counted")


def _check_numbers(event: PriceQuote | PriceIv, *names: str) -> None:
    for name in names:
        value = getattr(event, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}: {value} is negative")


def _check_known(name: str, words: Iterable[str], known: Collection[str]) -> None:
    """Refuse words of a newer version: what they mean for what is stored, this one cannot know."""
    if unknown := next((word for word in words if word not in known), None):
        raise ValueError(f"{name}: this version knows no {unknown[:80]!r}{_ADVICE}")


def _check_instants(name: str, instants: Iterable[datetime]) -> None:
    for instant in instants:
        if not _EARLIEST <= instant <= _LATEST:
            raise ValueError(f"{name}: {instant.isoformat()} is out of range")


# What is wrong with an event of each dataset, though it is as agreed: it raises ValueError.
CHECKS: Mapping[str, Callable[[Any], None]] = {
    "bars": _check_bars,
    "quote": _check_quote,
    "chain": _check_chain,
    "iv": _check_volatility,
    "actions": _check_actions,
}
