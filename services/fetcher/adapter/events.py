"""Builds contract events from what an adapter parsed: bars, quotes, option contracts and corporate actions. None: unknown."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

from contracts.message import Basis, Timeframe
from contracts.price_events import BAR_COLUMNS, MAX_ROWS, PriceActions, PriceBars, PriceChain, PriceQuote
from services.fetcher.adapter.fields import LENGTHS, PLAIN, Unit, day_start, period_end, period_start
from services.fetcher.provider import FetchCall, Profile

LATEST_BARS = 500
CLOCK_SLACK = timedelta(minutes=1)
DAY_SLACK = timedelta(hours=14)  # a session's date begins so much earlier in the Pacific than in UTC


class Bar(NamedTuple):
    """One bar. `at` is its start if it is shorter than a day, else any instant of its session.

    The fields are `at` and BAR_COLUMNS, in their order; an optional one is absent from an event when no bar of it has a value.
    """

    at: datetime
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None = None
    adjusted_close: float | None = None
    trade_count: float | None = None
    vwap: float | None = None


_OPTIONAL_COLUMNS = frozenset(column.name for column in BAR_COLUMNS if column.optional)
_PRICE_COLUMNS = frozenset(column.name for column in BAR_COLUMNS if column.unit == "price")  # in the vendor's unit until scaled
_POSITIVE_COLUMNS = _PRICE_COLUMNS & _OPTIONAL_COLUMNS  # vendors write 0 where they know none
_WHOLE_COLUMNS = frozenset(column.name for column in BAR_COLUMNS if column.type == "int8")


class Quote(NamedTuple):
    """Current price: `at` is the quote's time, else the last trade's."""

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


class BarColumns(dict[str, list[Any]]):
    """Bars in time order as one list per field of `Bar`, prices in the major unit."""

    @classmethod
    def of(cls, bars: Mapping[datetime, Bar], unit: Unit) -> "BarColumns":
        """Return the columns of bars by the instant that labels them."""
        if not bars:
            return cls((name, []) for name in Bar._fields)
        columns = cls(zip(Bar._fields, map(list, zip(*bars.values(), strict=True)), strict=True))
        columns["at"] = list(bars)
        for name in _POSITIVE_COLUMNS:
            columns[name] = [value if value and value > 0 else None for value in columns[name]]
        for name in _WHOLE_COLUMNS:
            columns[name] = [None if value is None else int(value) for value in columns[name]]
        if unit.scale != 1.0:
            for name in _PRICE_COLUMNS:
                columns[name] = [unit.major(value) for value in columns[name]]
        return columns

    def between(self, first: int, last: int) -> "BarColumns":
        """Return the bars of these positions."""
        return BarColumns((name, column[first:last]) for name, column in self.items())

    def fields(self) -> dict[str, Any]:
        """Return the columns as arguments of `PriceBars`: None for an optional one in which nothing is known."""
        return {
            name: None if name in _OPTIONAL_COLUMNS and column.count(None) == len(column) else column
            for name, column in self.items()
        }


class _Source(TypedDict):
    symbol: str
    provider: str
    feed: str
    observed_at: datetime
    fetched_at: datetime
    currency: str | None
    quoted_in: str | None


@dataclass(frozen=True)
class EventBuilder:
    """Builds the events of one symbol of a call.

    `zone`: the exchange's time zone, in which its sessions begin and end. `feed`, `basis`: override the profile's.
    `complete_until`: bars that end by then are final, by default those that end before now less the declared delay.
    """

    profile: Profile
    call: FetchCall
    symbol: str
    now: datetime
    unit: Unit = PLAIN
    zone: str = "UTC"
    feed: str = ""
    basis: Basis | None = None
    complete_until: datetime | None = None

    def bars(self, rows: Iterable[Bar]) -> list[PriceBars]:
        """Build bars in time order, in events of at most MAX_ROWS that divide the requested range; no rows give one empty event.

        Rows outside the range or without a price are left out; of two for one bar the later counts. Without a range the
        newest LATEST_BARS are given.
        """
        # A close of 0 is a vendor's "no trade". Another price of 0 beside it is wrong, not unknown: validation names it.
        priced = [row for row in rows if row.close and row.open is not None and row.high is not None and row.low is not None]
        priced.sort(key=_at)
        found = dict(zip(self._labels(map(_at, priced)), priced, strict=True))
        if self.call.start is not None:
            found = {at: row for at, row in found.items() if self._wanted(at)}
        bars = BarColumns.of(found, self.unit)
        count, first = len(found), 0 if self.call.start else max(0, len(found) - LATEST_BARS)
        parts = [bars.between(i, min(i + MAX_ROWS, count)) for i in range(first, count, MAX_ROWS)] or [bars]
        if self.call.start is None or self.call.end is None:
            return [self._event(part, None, None) for part in parts]
        edges = [day_start(self.call.start), *(part["at"][0] for part in parts[1:]), day_start(self.call.end)]
        return [self._event(part, edges[i], edges[i + 1]) for i, part in enumerate(parts)]

    def quote(self, quote: Quote, observed_at: datetime | None = None) -> PriceQuote:
        """Build a quote in the major unit. `observed_at`: as of when, if the vendor says; one that lies ahead says nothing."""
        # No later quote would ever replace one that was observed in the year 3000.
        observed = observed_at if observed_at and observed_at <= self.now + CLOCK_SLACK else None
        return PriceQuote(
            **self._source(observed),
            at=quote.at if quote.at and quote.at <= self.now + DAY_SLACK else None,
            price=self.unit.major(quote.price),
            bid=self.unit.major(quote.bid),
            ask=self.unit.major(quote.ask),
            previous_close=self.unit.major(quote.previous_close),
            volume=quote.volume,
        )

    def chain(self, contracts: Iterable[Contract]) -> list[PriceChain]:
        """Build an option chain in numbered events of at most MAX_ROWS; of duplicates the later counts; none give one empty event.

        One without a name or a strike is left out.
        """
        rows = list({row.contract: row for row in contracts if row.contract and row.strike > 0}.values())
        parts = [rows[i : i + MAX_ROWS] for i in range(0, len(rows), MAX_ROWS)] or [[]]
        return [self._chain(part, number, len(parts)) for number, part in enumerate(parts, 1)]

    def actions(self, actions: Iterable[Action]) -> PriceActions:
        """Build splits and dividends of the requested range in order of date."""
        start, end = self.call.start, self.call.end
        rows = sorted({a for a in actions if (start is None or a.date >= start) and (end is None or a.date < end) and a.value > 0})
        return PriceActions(
            **self._source(),
            asked_from=day_start(start) if start else None,
            asked_to=day_start(end) if end else None,
            date=[row.date for row in rows],
            kind=[row.kind for row in rows],
            ratio=[row.value if row.kind == "split" else None for row in rows],
            amount=[self.unit.major(row.value) if row.kind == "dividend" else None for row in rows],
        )

    @property
    def _as_of(self) -> datetime:
        """Instant up to which the vendor's newest data can reach."""
        return self.now - timedelta(seconds=self.profile.delay_s)

    def _source(self, observed_at: datetime | None = None) -> _Source:
        return {
            "symbol": self.symbol,
            "provider": self.profile.name,
            "feed": self.feed or self.profile.feed,
            "observed_at": observed_at or self._as_of,
            "fetched_at": self.now,
            "currency": self.unit.currency,
            "quoted_in": self.unit.quoted_in,
        }

    def label(self, at: datetime) -> datetime:
        """Label of the bar that contains an instant: its start if it is shorter than a day, else its period's first day."""
        [label] = self._labels([at])
        return label

    def _labels(self, instants: Iterable[datetime]) -> Iterable[datetime]:
        if self.call.timeframe is None or self.call.timeframe in LENGTHS:
            return instants
        return map(_bar_label, instants, repeat(self.zone), repeat(self.call.timeframe))

    def _wanted(self, at: datetime) -> bool:
        start, end, timeframe = self.call.start, self.call.end, self.call.timeframe
        if start is None or end is None:
            return True
        if timeframe is None or timeframe in LENGTHS:
            return day_start(start) <= at < day_start(end)
        return at.date() < end and period_end(at.date(), timeframe) > start

    def _is_over(self, at: datetime) -> bool:
        timeframe = self.call.timeframe or "1d"
        end = at + LENGTHS[timeframe] if timeframe in LENGTHS else day_start(period_end(at.date(), timeframe), self.zone)
        return end <= (self.complete_until or self._as_of)

    def _event(self, bars: BarColumns, asked_from: datetime | None, asked_to: datetime | None) -> PriceBars:
        # Once one bar can still change, so can those after it.
        over = bisect_left(bars["at"], True, key=lambda at: not self._is_over(at))
        return PriceBars(
            **self._source(),
            **bars.fields(),
            timeframe=self.call.timeframe or "1d",
            basis=self.basis or self.profile.basis,
            asked_from=asked_from,
            asked_to=asked_to,
            final=[True] * over + [False] * (len(bars["at"]) - over),
        )

    def _chain(self, rows: Sequence[Contract], part: int, parts: int) -> PriceChain:
        return PriceChain(
            **self._source(),
            part=part,
            parts=parts,
            contract=[row.contract for row in rows],
            expiry=[row.expiry for row in rows],
            strike=[row.strike for row in rows],
            right=[row.right for row in rows],
            bid=[row.bid for row in rows],
            ask=[row.ask for row in rows],
            last=[row.last for row in rows],
            mark=[row.mark for row in rows],
            volume=[row.volume for row in rows],
            open_interest=[row.open_interest for row in rows],
            iv=[row.iv for row in rows],
            delta=[row.delta for row in rows],
            gamma=[row.gamma for row in rows],
            theta=[row.theta for row in rows],
            vega=[row.vega for row in rows],
            at=[row.at for row in rows],
        )


_at = attrgetter("at")


@lru_cache(maxsize=65536)
def _bar_label(at: datetime, zone: str, timeframe: Timeframe) -> datetime:
    """Label of a daily or longer bar. Cached, as bars of many symbols begin at the same instants."""
    return day_start(period_start(at.astimezone(ZoneInfo(zone)).date(), timeframe))
