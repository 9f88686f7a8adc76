"""One price out of several venues' records of an instrument."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from services.fetcher.adapter.events import Bar, Quote
from services.fetcher.adapter.fields import price
from services.fetcher.providers.databento.answers import Record


def consolidated(bars: Iterable[Record]) -> list[Bar]:
    """One bar an instant: all volume, the highest high, the lowest low, open and close of the busiest venue.

    A venue's record without a price is left out; of two of one venue the later counts.
    """
    instants: dict[datetime, dict[int, Record]] = defaultdict(dict)
    for bar in bars:
        if None not in bar.prices:
            instants[bar.at][bar.venue] = bar
    return [_whole(at, list(venues.values())) for at, venues in sorted(instants.items())]


def _whole(at: datetime, venues: Sequence[Record]) -> Bar:
    busiest = max(venues, key=lambda bar: bar.volume or 0.0)
    volumes = [bar.volume for bar in venues if bar.volume is not None]
    opened, _, _, closed = busiest.prices
    highs = [high for bar in venues if (high := bar.prices[1]) is not None]
    lows = [low for bar in venues if (low := bar.prices[2]) is not None]
    return Bar(at, opened, max(highs), min(lows), closed, sum(volumes) if volumes else None)


def top_of_book(books: Iterable[Record]) -> Quote | None:
    """The best bid and ask of the last minute in which a venue had either, and the last price known; None: nothing is."""
    last: Record | None = None
    sides: dict[datetime, list[Record]] = defaultdict(list)
    for book in books:
        if price(book.prices[0]) is not None and (last is None or book.at >= last.at):
            last = book
        if price(book.prices[1]) is not None or price(book.prices[2]) is not None:
            sides[book.at].append(book)
    if not sides:
        return Quote(at=last.at, price=last.prices[0]) if last else None
    at = max(sides)
    bids = [bid for book in sides[at] if (bid := price(book.prices[1])) is not None]
    asks = [ask for book in sides[at] if (ask := price(book.prices[2])) is not None]
    return Quote(at=at, price=last.prices[0] if last else None, bid=max(bids, default=None), ask=min(asks, default=None))


def last_trade(bars: Iterable[Record], length: timedelta, until: datetime) -> Quote | None:
    """The close of the last bar, as of the bar's end; None: there is none."""
    rows = [row for row in consolidated(bars) if price(row.close) is not None]
    return Quote(at=min(rows[-1].at + length, until), price=rows[-1].close) if rows else None
