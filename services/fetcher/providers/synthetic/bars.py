"""Bars and quotes of the synthetic market, as they are known at an instant."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from contracts.message import Timeframe
from services.fetcher.adapter.events import Quote
from services.fetcher.adapter.fields import LENGTHS, period_end, period_start
from services.fetcher.providers.synthetic.market import Day, Instrument, Piece, joined, pieces, so_far

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
# Calendar days that surely hold a bar of these; between them lie weekends and holidays.
_DAYS_A_BAR: dict[Timeframe, float] = {"1d": 1.5, "1wk": 7, "1mo": 31}
Span = tuple[date, date]


class TickBar(NamedTuple):
    """Bar of the synthetic market, prices in ticks. `final`: it can no longer change."""

    at: datetime
    piece: Piece
    final: bool


def bars(instrument: Instrument, timeframe: Timeframe, span: Span, now: datetime) -> Iterator[TickBar]:
    """Return the bars of the sessions from the first to the last day of the span, both included, as far as they have happened.

    A week or month that the span touches is there as a whole.
    """
    if timeframe in LENGTHS:
        for day in instrument.days(*span):
            yield from _intraday(instrument, day, timeframe, now)
        return
    first, last = period_start(span[0], timeframe), period_end(period_start(span[1], timeframe), timeframe) - _DAY
    known = _known(instrument, (first, last), now)
    if timeframe == "1d":
        yield from (TickBar(_midnight(day.date), piece, final=piece == day.whole) for day, piece in known)
        return
    for first, days in groupby(known, lambda each: period_start(each[0].date, timeframe)):
        parts = [piece for _, piece in days]
        yield TickBar(_midnight(first), joined(parts), final=_midnight(period_end(first, timeframe)) <= now)


def latest(instrument: Instrument, timeframe: Timeframe, count: int, now: datetime) -> Iterator[TickBar]:
    """Return the newest bars, at least `count` of them, in order of time; an intraday session is there as a whole."""
    today = now.astimezone(UTC).date()
    if timeframe not in LENGTHS:
        yield from bars(instrument, timeframe, (today - int(count * _DAYS_A_BAR[timeframe] + 10) * _DAY, today), now)
        return
    days = list(instrument.days(today - (2 * count // rows_a_day(instrument, timeframe) + 10) * _DAY, today))
    sessions = [day for day in days if instrument.opens_at(day.date) < now]
    # The newest session may have only just begun, so there is one more than its bars would need.
    for day in sessions[-(count // rows_a_day(instrument, timeframe) + 2) :]:
        yield from _intraday(instrument, day, timeframe, now)


def rows_a_day(instrument: Instrument, timeframe: Timeframe) -> int:
    """Return the number of bars that one session has at most."""
    return -(-instrument.session_s // (LENGTHS[timeframe] // _SECOND)) if timeframe in LENGTHS else 1


def quote_of(instrument: Instrument, now: datetime) -> Quote:
    """Return the last price, with the second it is of; while the market is closed that is its close."""
    today = now.astimezone(UTC).date()
    day, piece = list(_known(instrument, (today - 7 * _DAY, today), now))[-1]
    spread = max(1, piece.close // 5000)
    second = min(_second(instrument, day, now), day.whole.end)
    return Quote(
        at=instrument.opens_at(day.date) + second * _SECOND,
        price=instrument.price(piece.close),
        bid=instrument.price(piece.close - spread) if piece.close > spread else None,
        ask=instrument.price(piece.close + spread),
        previous_close=instrument.price(day.previous_close),
        volume=float(piece.volume),
    )


def _known(instrument: Instrument, span: Span, now: datetime) -> Iterator[tuple[Day, Piece]]:
    over = now.astimezone(UTC).date() - _DAY
    for day in instrument.days(*span):
        piece = day.whole if day.date < over else so_far(day.whole, _second(instrument, day, now), day.key)
        if piece is None:
            return
        yield day, piece


def _intraday(instrument: Instrument, day: Day, timeframe: Timeframe, now: datetime) -> Iterator[TickBar]:
    opens_at, second = instrument.opens_at(day.date), _second(instrument, day, now)
    for piece in pieces(day.whole, LENGTHS[timeframe] // _SECOND, day.key, (0, second)):
        known = so_far(piece, second, day.key)
        if known is not None:
            yield TickBar(opens_at + piece.start * _SECOND, known, final=second >= piece.end)


def _second(instrument: Instrument, day: Day, now: datetime) -> int:
    return (now - instrument.opens_at(day.date)) // _SECOND


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
