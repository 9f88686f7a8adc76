"""The made-up market as vendors tell of it: bars raw or adjusted, quotes, splits and dividends, option chains."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from contracts.message import Timeframe
from services.fetcher.adapter.events import Action, Contract, Quote
from services.fetcher.adapter.fields import LENGTHS, NEW_YORK, pair_of, period_end
from services.fetcher.providers.synthetic.bars import bars, quote_of
from services.fetcher.providers.synthetic.chain import chain_of
from services.fetcher.providers.synthetic.market import FIRST_DAY, Instrument, instrument

DEAD, PAID = "DEAD", "PAID"
DIGITS = 6  # of adjusted prices, behind the point
_DAY = timedelta(days=1)
_SHARE_CLASS = re.compile(r"([A-Z]{1,5})[-/]([A-Z])")


class Bar(NamedTuple):
    """A bar. `session`: the last session in it; `adjusted`: its close adjusted for splits and dividends; `opens_at`: of `session`.

    `at`: its start; of a day or longer 00:00 UTC of the date that stands for it. `dividend`, `split`: of a day, none: 0 and 1.
    """

    at: datetime
    session: date
    opens_at: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    adjusted: float = 0.0
    dividend: float = 0.0
    split: float = 1.0

    @property
    def prices(self) -> dict[str, float]:
        """Open, high, low and close under these names."""
        return {"open": self.open, "high": self.high, "low": self.low, "close": self.close}


@dataclass
class SimulatedMarket:
    """The market as it is known at an instant. `asked`: the symbols that were looked at."""

    now: datetime
    seed: int = 0
    asked: list[str] = field(default_factory=list)

    def is_dead(self, symbol: str) -> bool:
        """True if the symbol is unknown: it begins with DEAD, or is malformed."""
        self.asked += [symbol] if symbol not in self.asked else []
        return symbol.upper().startswith(DEAD) or instrument(canonical(symbol), self.seed) is None

    def is_paid(self, symbol: str) -> bool:
        """True if the symbol requires a paid plan: it begins with PAID."""
        return symbol.upper().startswith(PAID)

    def instrument(self, symbol: str) -> Instrument:
        """Instrument of a symbol in any vendor's spelling; the symbol must be known."""
        found = instrument(canonical(symbol), self.seed)
        assert found is not None
        return found

    def zone(self, symbol: str) -> str:
        """The zone in which its sessions begin."""
        return NEW_YORK if self.instrument(symbol).kind == "share" else "UTC"

    def bars(self, symbol: str, timeframe: Timeframe, first: date, last: date, *, split_adjusted: bool = False) -> list[Bar]:
        """The bars of the sessions from `first` to `last`, both included, oldest first; weeks and months as a whole."""
        found = self.instrument(symbol)
        first, last = max(first, FIRST_DAY), min(last, self.now.date())
        adjust = _Adjustment(found, self.actions(symbol, first, self.now.date()))
        rows = bars(found, timeframe, (first, last), self.now) if first <= last else iter(())
        told: list[Bar] = []
        for at, piece, _ in rows:
            session = at.date() if timeframe in LENGTHS else self._last_session(found, at.date(), timeframe)
            factor = adjust.splits_after(session) if split_adjusted else 1.0
            o, h, low, c = (_told(found.price(ticks), factor) for ticks in (piece.open, piece.high, piece.low, piece.close))
            dividend, split = adjust.on(session) if timeframe == "1d" else (0.0, 1.0)
            close = _told(found.price(piece.close), adjust.all_after(session)) if timeframe not in LENGTHS else 0.0
            told.append(
                Bar(at, session, found.opens_at(session), o, h, low, c, round(piece.volume * factor), close, dividend, split)
            )
        return told

    def quote(self, symbol: str) -> Quote:
        """The price of now."""
        return quote_of(self.instrument(symbol), self.now)

    def actions(self, symbol: str, first: date = FIRST_DAY, last: date = date.max) -> list[Action]:
        """Splits and dividends in order of date, those as they were paid."""
        last, found = min(last, self.now.date()), self.instrument(symbol)
        years = range(first.year, last.year + 1)
        return [action for year in years for action in _actions(found, year) if first <= action.date <= last]

    def split_factor(self, symbol: str, day: date) -> float:
        """Split factor of a day: prices of the day divided by it compare with today's; the product of later splits."""
        split = self.instrument(symbol).split
        return float(split[1]) if split and day < split[0] <= self.now.date() else 1.0

    def chain(self, symbol: str) -> list[Contract]:
        """The listed options; one without a price is there all the same, with nothing known of it."""
        return chain_of(symbol, self.quote(symbol), self.instrument(symbol).key)

    def _last_session(self, found: Instrument, start: date, timeframe: Timeframe) -> date:
        day = min(period_end(start, timeframe) - _DAY, self.now.astimezone(UTC).date())
        while not found.trades_on(day) or found.opens_at(day) >= self.now:
            day -= _DAY
        return max(day, start)


@lru_cache(maxsize=65536)
def _actions(found: Instrument, year: int) -> tuple[Action, ...]:
    """Those of a year. Remembered, as each dividend follows from the closes before it."""
    return tuple(sorted(found.actions(date(year, 1, 1), date(year, 12, 31))))


class _Adjustment:
    """Divisors that adjust an earlier price for later splits and dividends."""

    def __init__(self, found: Instrument, actions: Sequence[Action]) -> None:
        self._splits = {action.date: action.value for action in actions if action.kind == "split"}
        self._dividends = {action.date: action.value for action in actions if action.kind == "dividend"}
        self._factors = dict(self._dividend_factors(found))

    def on(self, day: date) -> tuple[float, float]:
        """The dividend and the split of a day."""
        return self._dividends.get(day, 0.0), self._splits.get(day, 1.0)

    def splits_after(self, day: date) -> float:
        factor = 1.0
        for each, ratio in self._splits.items():
            factor *= ratio if each > day else 1.0
        return factor

    def all_after(self, day: date) -> float:
        factor = self.splits_after(day)
        for each, ratio in self._factors.items():
            factor *= ratio if each > day else 1.0
        return factor

    def _dividend_factors(self, found: Instrument) -> Iterator[tuple[date, float]]:
        for day, amount in self._dividends.items():
            before = found.price(next(found.days(day, day)).previous_close)
            yield day, before / (before - amount)


def canonical(symbol: str) -> str:
    """`BRK.B` of BRK-B or BRK/B, `EUR/USD` of EURUSD=X or eurusd, `BTC/USD` of BTC-USD."""
    plain = symbol.upper().removesuffix("=X")
    if found := _SHARE_CLASS.fullmatch(plain):
        return f"{found[1]}.{found[2]}"
    pair = pair_of(plain.replace("-", "/"))
    return f"{pair.base}/{pair.quote}" if pair else plain


def _told(price: float, factor: float) -> float:
    return price if factor == 1.0 else round(price / factor, DIGITS)
