"""One symbol of a call, and how what a vendor said about it becomes events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, TypedDict
from zoneinfo import ZoneInfo

from contracts.price_events import MAX_ROWS, PriceActions, PriceBars, PriceChain, PriceQuote
from services.fetcher.normalise import LENGTHS, PLAIN, Unit, day_start, period_end, period_start
from services.fetcher.provider import Call, Profile
from services.fetcher.rows import Action, Contract, Row, Spot

LATEST_BARS = 500


class _Bar(NamedTuple):
    """A row whose prices are known, in the major unit; `at` as the contract wants it."""

    at: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    adjusted: float | None


class _Source(TypedDict):
    symbol: str
    provider: str
    feed: str
    observed_at: datetime
    fetched_at: datetime
    currency: str | None
    quoted_in: str | None


@dataclass(frozen=True)
class Asked:
    """`zone`: the exchange's, in which its sessions begin and end. `feed`: where it is not the profile's.

    `complete_until`: what the vendor has is the whole of it up to here, by default up to now less its declared delay.
    """

    profile: Profile
    call: Call
    symbol: str
    now: datetime
    unit: Unit = PLAIN
    zone: str = "UTC"
    feed: str = ""
    complete_until: datetime | None = None

    def bars(self, rows: Iterable[Row]) -> list[PriceBars]:
        """Bars in time order, in events of at most MAX_ROWS that share out the asked range; no rows give one empty event.

        Rows outside the range or without a price are left out; of two for one bar the later counts. Without a range the
        newest LATEST_BARS are given.
        """
        found = {bar.at: bar for row in sorted(rows, key=lambda row: row.at) if (bar := self._bar(row)) and self._wanted(bar.at)}
        bars = list(found.values()) if self.call.start else list(found.values())[-LATEST_BARS:]
        parts = [bars[i : i + MAX_ROWS] for i in range(0, len(bars), MAX_ROWS)] or [[]]
        if self.call.start is None or self.call.end is None:
            return [self._event(part, None, None) for part in parts]
        edges = [day_start(self.call.start), *(part[0].at for part in parts[1:]), day_start(self.call.end)]
        return [self._event(part, edges[i], edges[i + 1]) for i, part in enumerate(parts)]

    def quote(self, spot: Spot, observed_at: datetime | None = None) -> PriceQuote:
        """The price of now, in the major unit."""
        return PriceQuote(
            **self._source(observed_at),
            at=spot.at,
            price=self.unit.major(spot.price),
            bid=self.unit.major(spot.bid),
            ask=self.unit.major(spot.ask),
            previous_close=self.unit.major(spot.previous_close),
            volume=spot.volume,
        )

    def chain(self, contracts: Iterable[Contract]) -> list[PriceChain]:
        """The contracts in numbered events of at most MAX_ROWS; of one named twice the later counts; none give one empty event."""
        rows = list({row.contract: row for row in contracts if row.strike > 0}.values())
        parts = [rows[i : i + MAX_ROWS] for i in range(0, len(rows), MAX_ROWS)] or [[]]
        return [self._chain(part, number, len(parts)) for number, part in enumerate(parts, 1)]

    def actions(self, actions: Iterable[Action]) -> PriceActions:
        """Splits and dividends of the asked range in order of date."""
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
        """As of when the vendor's newest data can be true."""
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

    def _bar(self, row: Row) -> _Bar | None:
        # A close of 0 is a vendor's "no trade". Another price of 0 beside it is wrong, not unknown: validation names it.
        if row.open is None or row.high is None or row.low is None or not row.close:
            return None
        o, h, low, c, adjusted = map(self.unit.known, (row.open, row.high, row.low, row.close, row.adjusted or 0.0))
        return _Bar(self.label(row.at), o, h, low, c, row.volume, adjusted or None)

    def label(self, at: datetime) -> datetime:
        """The instant that stands for the bar which a vendor's instant lies in; a bar shorter than a day keeps its start."""
        if self.call.timeframe is None or self.call.timeframe in LENGTHS:
            return at
        return day_start(period_start(at.astimezone(ZoneInfo(self.zone)).date(), self.call.timeframe))

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

    def _event(self, bars: Sequence[_Bar], asked_from: datetime | None, asked_to: datetime | None) -> PriceBars:
        adjusted = [bar.adjusted for bar in bars]
        return PriceBars(
            **self._source(),
            timeframe=self.call.timeframe or "1d",
            basis=self.profile.basis,
            asked_from=asked_from,
            asked_to=asked_to,
            at=[bar.at for bar in bars],
            open=[bar.open for bar in bars],
            high=[bar.high for bar in bars],
            low=[bar.low for bar in bars],
            close=[bar.close for bar in bars],
            volume=[bar.volume for bar in bars],
            final=[self._is_over(bar.at) for bar in bars],
            adjusted_close=adjusted if any(adjusted) else None,
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
