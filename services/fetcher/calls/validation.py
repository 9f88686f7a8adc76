"""Validation of events before they are published: rows that break a rule go to quarantine with its name."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import repeat
from math import isfinite, log
from operator import ge, le, truediv
from statistics import median
from typing import TypeVar, cast

import msgspec

from contracts.message import Timeframe
from contracts.price_events import (
    BAR_COLUMN_NAMES,
    BAR_COLUMNS,
    BarColumn,
    Column,
    PriceActions,
    PriceBars,
    PriceChain,
    PriceIv,
    PriceQuote,
)
from services.fetcher.adapter.events import CLOCK_SLACK, DAY_SLACK
from services.fetcher.adapter.fields import LENGTHS, period_end

JUMP_MULTIPLE = 25.0  # of the median move of the last bars
LEAST_JUMP = 1.5  # as a ratio: a smaller move is never suspicious
MOVES = 20
LEAST_MOVES = 5
HUNDREDFOLD = (75.0, 133.0)  # pence for pounds, and the market's own move on top
FIRST_ROWS = 5
# Beyond these a number stands for something else, such as the largest of an integer.
HIGHEST_PRICE, LARGEST_VOLUME = 1e12, 1e18

_COLUMNS = ("at", *BAR_COLUMN_NAMES)
# The columns beside the four prices that the rules on highs and lows are about.
_FURTHER = [column for column in BAR_COLUMNS if column.nullable]

# A row that is kept back: its instant, the rule it broke, and the row as JSON.
Broken = tuple[datetime | None, str, str]

Facts = PriceQuote | PriceChain | PriceActions | PriceIv
E = TypeVar("E", PriceChain, PriceActions)

LONGEST_NAME = 64
LONGEST_EXPIRED = timedelta(days=7)  # a chain may still hold what expired last week
LARGEST_IV = 100.0  # ten thousand per cent
LARGEST_GREEK = 1e6
NO_GREEK = frozenset({-999.0, -999.99})  # what vendors write where they know none
LARGEST_RATIO = 1e5
_PRICES = ("bid", "ask", "last", "mark")
_GREEKS = ("delta", "gamma", "theta", "vega")
_CHAIN = ("contract", "expiry", "strike", "right", *_PRICES, "volume", "open_interest", "iv", *_GREEKS, "at")
_ACTIONS = ("date", "kind", "ratio", "amount")
_QUOTE = ("at", "price", "bid", "ask", "previous_close", "volume")


def validate(
    bars: PriceBars, now: datetime, *, jump_multiple: float = JUMP_MULTIPLE, splits: Mapping[date, float] | None = None
) -> tuple[PriceBars, list[Broken]]:
    """The event without the rows that break a rule, and those rows.

    `splits`: ratios by ex-date, which explain a jump; so does an adjusted close that does not jump along. A jump that the next
    bar confirms is a move of the market; one of a hundred times never is.
    """
    if _is_sound(bars, now):
        return bars, []
    broken = {i: rule for i in range(len(bars.at)) if (rule := _rule_broken(bars, i, now))}
    jumps = JumpRule(bars, [i for i in range(len(bars.at)) if i not in broken], jump_multiple, splits or {})
    broken |= dict(jumps.found())
    kept = [i for i in range(len(bars.at)) if i not in broken]
    return _only(bars, kept), [(bars.at[i], rule, _row_text(bars, i)) for i, rule in sorted(broken.items())]


def _is_sound(bars: PriceBars, now: datetime) -> bool:
    """True if no bar can break a rule: a check per column, at a tenth of the cost, which nearly every event passes."""
    if not bars.at:
        return True
    # A comparison with NaN is false, so NaN is never sound.
    return (
        min(bars.low) > 0
        and max(bars.high) < HIGHEST_PRICE
        and all(map(le, bars.low, bars.open))
        and all(map(le, bars.low, bars.close))
        and all(map(ge, bars.high, bars.open))
        and all(map(ge, bars.high, bars.close))
        and max(map(truediv, bars.high, bars.low)) < HUNDREDFOLD[0]
        and max(moves := list(map(truediv, bars.close[1:], bars.close)), default=1.0) < LEAST_JUMP
        and min(moves, default=1.0) > 1 / LEAST_JUMP
        and all(_is_plausible(column, getattr(bars, column.name) or []) for column in _FURTHER)
        and not any(_misplaced(bars, i, now) for i in (0, -1))
    )


def _is_plausible(column: BarColumn, values: Column) -> bool:
    known = [value for value in values if value is not None]
    if column.unit == "count":
        return all(map(le, repeat(0.0), known)) and max(known, default=0.0) < LARGEST_VOLUME
    return all(map(isfinite, known)) and max(known, default=0.0) < HIGHEST_PRICE


def _rule_broken(bars: PriceBars, i: int, now: datetime) -> str:
    """The first rule this row breaks on its own."""
    o, h, low, c = bars.open[i], bars.high[i], bars.low[i], bars.close[i]
    further = [(column, value) for column in _FURTHER if (value := _value(bars, column.name, i)) is not None]
    if not all(map(isfinite, (o, h, low, c, *(value for _, value in further)))):
        return "not_finite"
    if min(o, h, low, c) <= 0 and not may_be_negative(bars.symbol):
        return "price_not_positive"
    if low > h:
        return "low_above_high"
    if not low <= o <= h:
        return "open_outside_low_high"
    if not low <= c <= h:
        return "close_outside_low_high"
    if low > 0 and h / low >= HUNDREDFOLD[0]:
        return "hundredfold"
    return _size_rule(h, further) or _misplaced(bars, i, now)


def _size_rule(highest: float, further: Sequence[tuple[BarColumn, float]]) -> str:
    if max([highest, *(value for column, value in further if column.unit == "price")]) >= HIGHEST_PRICE:
        return "price_absurd"
    for column, value in further:
        if column.unit == "count" and not 0 <= value < LARGEST_VOLUME:
            return f"negative_{column.name}" if value < 0 else f"{column.name}_absurd"
    return ""


def _value(bars: PriceBars, name: str, i: int) -> float | None:
    column: Column | None = getattr(bars, name)
    return column[i] if column else None


def _misplaced(bars: PriceBars, i: int, now: datetime) -> str:
    at = bars.at[i]
    timeframe = cast("Timeframe", bars.timeframe)  # the event was made here
    length = LENGTHS.get(timeframe)
    end = at + length if length else at + (period_end(at.date(), timeframe) - at.date())
    # A bar shorter than a day belongs where it starts, a longer one wherever it overlaps.
    too_early = bars.asked_from is not None and (at < bars.asked_from if length else end <= bars.asked_from)
    if too_early or (bars.asked_to is not None and at >= bars.asked_to):
        return "outside_asked_range"
    return "in_the_future" if at > now + (CLOCK_SLACK if length else DAY_SLACK) else ""


def may_be_negative(symbol: str) -> bool:
    """True if the symbol's price may be negative: futures and their spreads have traded below zero."""
    return symbol.endswith("=F") or symbol.startswith("/")


class JumpRule:
    """Walks from one good close to the next."""

    def __init__(self, bars: PriceBars, rows: Sequence[int], multiple: float, splits: Mapping[date, float]) -> None:
        self._bars = bars
        self._rows = [i for i in rows if bars.close[i] > 0]
        self._multiple = multiple
        self._splits = splits
        self._moves: deque[float] = deque(maxlen=MOVES)

    def found(self) -> Iterator[tuple[int, str]]:
        """The rows that jump, and the rule each breaks."""
        rows = self._rows
        if len(rows) > 2:
            typical = median(self._bars.close[i] for i in rows[1 : 1 + FIRST_ROWS])
            if _is_hundredfold(log(self._bars.close[rows[0]]) - log(typical)):
                yield rows[0], "hundredfold"
                rows = rows[1:]
        before = rows[0] if rows else 0
        for place, i in enumerate(rows[1:], 1):
            after = rows[place + 1] if place + 1 < len(rows) else None
            if rule := self._rule_broken(before, i, after):
                yield i, rule
            else:
                self._moves.append(abs(self._move(before, i)))
                before = i

    def _rule_broken(self, before: int, i: int, after: int | None) -> str:
        move = self._move(before, i)
        if abs(move) <= log(LEAST_JUMP) or self._explained(before, i, move):
            return ""
        if _is_hundredfold(move):
            return "hundredfold"
        if len(self._moves) < LEAST_MOVES or abs(move) <= self._multiple * median(self._moves):
            return ""
        confirmed = after is not None and abs(self._move(i, after)) < abs(self._move(before, after))
        return "" if confirmed else "jump"

    def _move(self, before: int, i: int) -> float:
        return log(self._bars.close[i]) - log(self._bars.close[before])

    def _explained(self, before: int, i: int, move: float) -> bool:
        adjusted = self._bars.adjusted_close
        if adjusted and (old := adjusted[before] or 0.0) > 0 and (new := adjusted[i] or 0.0) > 0:
            return abs(log(new) - log(old)) <= log(LEAST_JUMP)
        ratio = self._splits.get(self._bars.at[i].date())
        return ratio is not None and ratio > 0 and abs(move + log(ratio)) <= log(LEAST_JUMP)


def _is_hundredfold(move: float) -> bool:
    return log(HUNDREDFOLD[0]) <= abs(move) <= log(HUNDREDFOLD[1])


def _only(bars: PriceBars, rows: Sequence[int]) -> PriceBars:
    columns = {name: values for name in (*_COLUMNS, "final") if (values := getattr(bars, name)) is not None}
    return msgspec.structs.replace(bars, **{name: [values[i] for i in rows] for name, values in columns.items()})


def _row_text(bars: PriceBars, i: int) -> str:
    row = {name: column[i] for name in _COLUMNS if (column := getattr(bars, name)) is not None}
    return msgspec.json.encode(row).decode()


def validate_facts(event: Facts, now: datetime) -> tuple[Facts, list[Broken]]:
    """The event without the rows that break a rule, and those rows. A quote is one row, and without it an empty event."""
    match event:
        case PriceChain():
            return _kept(event, _CHAIN, lambda i: _contract_rule(event, i, now))
        case PriceActions():
            return _kept(event, _ACTIONS, lambda i: _action_rule(event, i))
        case PriceIv():
            return event, []  # made here, of what was validated
        case _:
            rule = _quote_rule(event, now)
            nothing = msgspec.structs.replace(event, **dict.fromkeys(_QUOTE))
            return (nothing, [(event.at, rule, _text(event, _QUOTE, None))]) if rule else (event, [])


def _quote_rule(quote: PriceQuote, now: datetime) -> str:
    prices = (quote.price, quote.bid, quote.ask, quote.previous_close)
    return _price_rule(prices, negative=may_be_negative(quote.symbol)) or _count_rule((quote.volume,)) or _time_rule(quote.at, now)


def _contract_rule(chain: PriceChain, i: int, now: datetime) -> str:
    name = chain.contract[i]
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        return "contract_without_name"
    if not now.date() - LONGEST_EXPIRED <= chain.expiry[i] <= now.date() + timedelta(days=36600):
        return "expiry_out_of_range"
    iv, greeks = chain.iv[i], [getattr(chain, column)[i] for column in _GREEKS]
    if iv is not None and not 0 < iv <= LARGEST_IV:
        return "iv_out_of_range"
    if not all(abs(greek) <= LARGEST_GREEK and greek not in NO_GREEK for greek in greeks if greek is not None):
        return "greek_out_of_range"
    prices = (chain.strike[i], *(getattr(chain, column)[i] for column in _PRICES))
    counts = (chain.volume[i], chain.open_interest[i])
    return _price_rule(prices) or _count_rule(counts) or _time_rule(chain.at[i], now)


def _action_rule(actions: PriceActions, i: int) -> str:
    ratio = actions.ratio[i]
    if ratio is not None and not 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO:
        return "ratio_out_of_range"
    return _price_rule((actions.amount[i],))


def _price_rule(prices: Sequence[float | None], *, negative: bool = False) -> str:
    known = [value for value in prices if value is not None]
    if not all(map(isfinite, known)):
        return "not_finite"
    if not negative and any(value <= 0 for value in known):
        return "price_not_positive"
    return "price_absurd" if any(abs(value) >= HIGHEST_PRICE for value in known) else ""


def _count_rule(counts: Sequence[float | None]) -> str:
    known = [value for value in counts if value is not None]
    if not all(map(isfinite, known)):
        return "not_finite"
    if any(value < 0 for value in known):
        return "negative_volume"
    return "volume_absurd" if any(value >= LARGEST_VOLUME for value in known) else ""


def _time_rule(at: datetime | None, now: datetime) -> str:
    return "in_the_future" if at is not None and at > now + DAY_SLACK else ""


def _kept(event: E, columns: Sequence[str], rule_of: Callable[[int], str]) -> tuple[E, list[Broken]]:
    rows = len(getattr(event, columns[0]))
    broken = {i: rule for i in range(rows) if (rule := rule_of(i))}
    if not broken:
        return event, []
    kept = {name: [value for i, value in enumerate(getattr(event, name)) if i not in broken] for name in columns}
    instants = event.at if isinstance(event, PriceChain) else [None] * rows
    quarantined = [(instants[i], rule, _text(event, columns, i)) for i, rule in broken.items()]
    return msgspec.structs.replace(event, **kept), quarantined


def _text(event: Facts, columns: Sequence[str], i: int | None) -> str:
    """A row, or with no `i` the fields themselves, as JSON."""
    row = {name: value if i is None else value[i] for name in columns for value in (getattr(event, name),)}
    return msgspec.json.encode(row).decode()
