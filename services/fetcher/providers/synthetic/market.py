"""The made-up market: which instruments there are, when they trade, and what each of their days looked like."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from struct import Struct
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from services.fetcher.adapter.events import Action
from services.fetcher.adapter.fields import Pair, pair_of
from services.fetcher.providers.synthetic.intraday import Piece
from services.fetcher.providers.synthetic.noise import chances, key_of, wander

Kind = Literal["share", "fx", "crypto"]
FIRST_DAY = date(1950, 1, 1)
_NAMED = re.compile(r"[A-Z0-9.^=/:-]{1,20}")
_DASHED_PAIR = re.compile(r"([A-Z0-9]{2,10})-(USD|USDT|USDC|EUR|GBP|JPY|BTC|ETH)")
_NEW_YORK = ZoneInfo("America/New_York")
_CLOSED = {(1, 1), (6, 19), (7, 4), (12, 25)}
_SESSION_S: dict[Kind, int] = {"share": 390 * 60, "fx": 86400, "crypto": 86400}
# How far a close is from the last one, as a fraction of the price.
_VOLATILITY: dict[Kind, float] = {"share": 0.013, "fx": 0.004, "crypto": 0.02}
_DAY = timedelta(days=1)
_LONGEST_REST = 7  # no market is closed for so many days
_FRACTIONS = Struct("<5H")


class Day(NamedTuple):
    """One session: what it was as a whole, and the close before it in the same ticks (after a split on this day, as split)."""

    date: date
    whole: Piece
    previous_close: int
    key: int


@dataclass(frozen=True, slots=True)
class Instrument:
    """What a symbol stands for. `ticks`: ticks in one unit of its currency. `base`: the price in ticks that it wanders about.

    `volume`: of a usual day. `split`: ex-date and new shares per old.
    """

    symbol: str
    key: int
    kind: Kind
    currency: str
    ticks: int
    base: float
    volume: int
    split: tuple[date, int] | None = None
    dividend_yield: float = 0.0

    @property
    def session_s(self) -> int:
        """How long a session is."""
        return _SESSION_S[self.kind]

    def trades_on(self, day: date) -> bool:
        """Whether there is a session of this date."""
        return self.kind == "crypto" or (day.weekday() < 5 and (day.month, day.day) not in _CLOSED)

    def opens_at(self, day: date) -> datetime:
        """When the session of this date opens."""
        if self.kind == "share":
            return datetime.combine(day, time(9, 30), _NEW_YORK).astimezone(UTC)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)

    def days(self, first: date, last: date) -> Iterator[Day]:
        """The sessions from `first` to `last`, both included; nothing before FIRST_DAY."""
        first = max(first, FIRST_DAY)
        start, swing, before = first.toordinal() - _LONGEST_REST, _VOLATILITY[self.kind], None
        for n, level in enumerate(wander(self.key, start, max(0, last.toordinal() + 1 - start))):
            day = date.fromordinal(start + n)
            if self.trades_on(day):
                close = math.exp(level * swing)
                if before is not None and n >= _LONGEST_REST:
                    yield self._day(day, close, before)
                before = close

    def actions(self, first: date, last: date) -> Iterator[Action]:
        """Splits and dividends with an ex-date from `first` to `last`, both included."""
        if self.split and first <= self.split[0] <= last:
            yield Action(self.split[0], "split", float(self.split[1]))
        if not self.dividend_yield:
            return
        month = max(first, FIRST_DAY).replace(day=1)
        while month <= last:
            if month.month % 3 == self.key % 3:
                due = month + (self.key >> 8 & 15) * _DAY
                day = next(self.days(due, due + _LONGEST_REST * _DAY))
                if first <= day.date <= last:
                    amount = self.price(day.previous_close) * self.dividend_yield / 4
                    yield Action(day.date, "dividend", max(0.01, round(amount, 2)))
            month = (month + 31 * _DAY).replace(day=1)

    def price(self, ticks: int) -> float:
        """So many ticks as a price."""
        return ticks / self.ticks

    def _day(self, day: date, level: float, before: float) -> Day:
        dice, swing = chances(self.key, day.toordinal()), _VOLATILITY[self.kind] / 256
        unsplit = self.split[1] if self.split and day < self.split[0] else 1
        close, previous = max(1, round(level * self.base * unsplit)), max(1, round(before * self.base * unsplit))
        # A market that never closes opens where it closed; the others jump a little over night.
        opening = previous if self.kind == "crypto" else max(1, round(previous * (1 + (dice[0] - 128) * swing)))
        up, down = (opening, close) if opening > close else (close, opening)
        high, low = math.ceil(up * (1 + swing * dice[1])), max(1, math.floor(down * (1 - swing * dice[2])))
        volume = self.volume * (128 + dice[3]) // (256 * unsplit)
        return Day(day, Piece(0, self.session_s, opening, high, low, close, volume), previous, int.from_bytes(dice[8:16], "big"))


def instrument(symbol: str, seed: int = 0) -> Instrument | None:
    """What the symbol stands for; none for what no symbol looks like, and for those that begin with ZZ."""
    if not _NAMED.fullmatch(symbol) or symbol.startswith("ZZ"):
        return None
    key = key_of(f"{seed} {symbol}")
    size, busy, splits, when, pays = (number / 65536 for number in _FRACTIONS.unpack(chances(key, 0)[:10]))
    pair, volume = _pair(symbol), int(50_000 * 10 ** (2.5 * busy))
    if pair is None:
        dividends = 0.01 + 0.06 * (0.5 - pays) if pays < 0.5 else 0.0
        share = Instrument(symbol, key, "share", "USD", 100, 6000 * 8**size, volume, dividend_yield=dividends)
        return replace(share, split=_split(share, when)) if splits < 0.25 else share
    currency = pair.quote if len(pair.quote) == 3 else "USD"
    if pair.fx:
        return Instrument(symbol, key, "fx", currency, 100_000, 60_000 + 100_000 * size, volume)
    return Instrument(symbol, key, "crypto", currency, 100, 5000 * 1000**size, volume)


def _split(share: Instrument, when: float) -> tuple[date, int]:
    day = date(2019, 1, 1) + int(when * 2900) * _DAY
    return next(share.days(day, day + _LONGEST_REST * _DAY)).date, 2 + share.key % 3


def _pair(symbol: str) -> Pair | None:
    found = _DASHED_PAIR.fullmatch(symbol)
    return Pair(found[1], found[2]) if found else pair_of(symbol.removesuffix("=X"))
