"""What an adapter reads out of a vendor's answer, before it becomes events. None: unknown."""

from datetime import date, datetime
from typing import Literal, NamedTuple


class Row(NamedTuple):
    """A bar: `at` is its start if it is shorter than a day, else any instant of its session."""

    at: datetime
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None = None
    adjusted: float | None = None


class Spot(NamedTuple):
    """The price of now: `at` is the quote's time, else the last trade's."""

    at: datetime | None = None
    price: float | None = None
    bid: float | None = None
    ask: float | None = None
    previous_close: float | None = None
    volume: float | None = None


class Contract(NamedTuple):
    """One option: `iv` is a fraction, `at` the quote's time, else the last trade's."""

    contract: str
    expiry: date
    strike: float
    right: Literal["call", "put"]
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    mark: float | None = None
    volume: float | None = None
    open_interest: float | None = None
    iv: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    at: datetime | None = None


class Action(NamedTuple):
    """On its ex-date, a split of `value` new shares per old, or a dividend of `value` per share."""

    date: date
    kind: Literal["split", "dividend"]
    value: float
