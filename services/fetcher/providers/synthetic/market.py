"""The synthetic market: instruments, their daily bars, and the path of a price within a day."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate, pairwise
from struct import Struct
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from services.fetcher.adapter.events import Action
from services.fetcher.adapter.fields import NEW_YORK, Pair, pair_of
from services.fetcher.providers.synthetic.seeded_random import chances, key_of, random_walk

Kind = Literal["share", "fx", "crypto"]
FIRST_DAY = date(1950, 1, 1)
_NAMED = re.compile(r"[A-Z0-9.^=/:-]{1,20}")
_DASHED_PAIR = re.compile(r"([A-Z0-9]{2,10})-(USD|USDT|USDC|EUR|GBP|JPY|BTC|ETH)")
_NEW_YORK = ZoneInfo(NEW_YORK)
_CLOSED = {(1, 1), (6, 19), (7, 4), (12, 25)}
_SESSION_S: dict[Kind, int] = {"share": 390 * 60, "fx": 86400, "crypto": 86400}
# How far a close is from the last one, as a fraction of the price.
_VOLATILITY: dict[Kind, float] = {"share": 0.013, "fx": 0.004, "crypto": 0.02}
_DAY = timedelta(days=1)
_LONGEST_REST = 7  # no market is closed for so many days
_FRACTIONS = Struct("<5H")
# Every timeframe's bars are whole pieces of the next longer one's; no step has more than twelve.
STEPS_S = (21600, 3600, 1800, 900, 300, 60, 5, 1)


class Piece(NamedTuple):
    """A stretch of a session: seconds since it opened (end exclusive), prices in whole ticks."""

    start: int
    end: int
    open: int
    high: int
    low: int
    close: int
    volume: int


class Day(NamedTuple):
    """One session: what it was as a whole, and the close before it in the same ticks (after a split on this day, as split)."""

    date: date
    whole: Piece
    previous_close: int
    key: int


@dataclass(frozen=True, slots=True)
class Instrument:
    """Instrument that a symbol names. `ticks`: ticks in one unit of its currency. `base`: the price in ticks that it wanders about.

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
        """Length of a session."""
        return _SESSION_S[self.kind]

    def trades_on(self, day: date) -> bool:
        """True if there is a session of this date."""
        return self.kind == "crypto" or (day.weekday() < 5 and (day.month, day.day) not in _CLOSED)

    def opens_at(self, day: date) -> datetime:
        """Return the instant at which the session of this date opens."""
        if self.kind == "share":
            return datetime.combine(day, time(9, 30), _NEW_YORK).astimezone(UTC)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)

    def days(self, first: date, last: date) -> Iterator[Day]:
        """Return the sessions from `first` to `last`, both included; nothing before FIRST_DAY."""
        first = max(first, FIRST_DAY)
        start, swing, before = first.toordinal() - _LONGEST_REST, _VOLATILITY[self.kind], None
        for n, level in enumerate(random_walk(self.key, start, max(0, last.toordinal() + 1 - start))):
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
        """Convert ticks to a price."""
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
    """Return the instrument that a symbol names; None if it looks like no symbol or begins with ZZ."""
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


def pieces(whole: Piece, length: int, key: int, window: tuple[int, int]) -> list[Piece]:
    """Split the stretch in pieces of so many seconds, one of STEPS_S (the last may be shorter); only those in the window."""
    first, last = window
    found = [whole]
    for step in STEPS_S[: STEPS_S.index(length) + 1]:
        found = [part for piece in found for part in _parts(piece, step, key) if part.end > first and part.start < last]
    return found


def so_far(whole: Piece, second: int, key: int) -> Piece | None:
    """Return the part of the stretch that is over by this second of the session; None before its first second is."""
    if second >= whole.end:
        return whole
    done: list[Piece] = []
    for step in STEPS_S:
        parts = _parts(whole, step, key)
        done += [part for part in parts if part.end <= second]
        under_way = [part for part in parts if part.start < second < part.end]
        if not under_way:
            break
        whole = under_way[0]
    return joined(done) if done else None


def joined(parts: Sequence[Piece]) -> Piece:
    """Pieces that follow each other, as one."""
    return Piece(
        parts[0].start,
        parts[-1].end,
        parts[0].open,
        max(part.high for part in parts),
        min(part.low for part in parts),
        parts[-1].close,
        sum(part.volume for part in parts),
    )


def _parts(whole: Piece, length: int, key: int) -> list[Piece]:
    """Return the parts of one piece. One of them reaches its high and one its low, and none goes beyond."""
    start, end, first, high, low, last, volume = whole
    count = -(-(end - start) // length)
    if count == 1:
        return [whole]
    dice = chances(key, start, length)
    top, bottom = dice[62] % count, dice[63] % count
    prices = pairwise([first, *_bridge(whole, count, dice), last])
    volumes = _shares(volume, [64 + dice[5 * i + 4] for i in range(count)])
    found = []
    for i, (a, b) in enumerate(prices):
        up, down = (a, b) if a > b else (b, a)
        h = high if i == top else up + (high - up) * dice[5 * i + 2] // 512
        lo = low if i == bottom else down - (down - low) * dice[5 * i + 3] // 512
        found.append(Piece(start + i * length, min(start + (i + 1) * length, end), a, h, lo, b, volumes[i]))
    return found


def _bridge(whole: Piece, count: int, dice: bytes) -> list[int]:
    """Return the prices between the parts: from the open to the close on a way that strays most in the middle."""
    first, high, low, last = whole[2:6]
    way = []
    for i in range(1, count):
        stray = (dice[5 * i] * 256 + dice[5 * i + 1]) / 32768 - 1
        straight = first + (last - first) * i / count
        price = round(straight + stray * (high - low) * (i * (count - i)) ** 0.5 / count)
        way.append(min(high, max(low, price)))
    return way


def _shares(volume: int, weights: Sequence[int]) -> list[int]:
    total = sum(weights)
    ends = [volume * weight // total for weight in accumulate(weights)]
    return [b - a for a, b in pairwise([0, *ends])]
