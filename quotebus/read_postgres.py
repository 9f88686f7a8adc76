"""What commands read from PostgreSQL, by the views that are made for readers."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime

from services.runtime.prices.bar_columns import listed
from services.runtime.prices.read_postgres import Connection

_BATCH = 2000
_EVER = datetime(1600, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SeriesWanted:
    """One series of bars; rows of two are never mixed. `start` is the first instant that is wanted, `end` the first that is not."""

    symbol: str
    timeframe: str
    basis: str
    feed: str
    start: datetime | None = None
    end: datetime | None = None


async def series_of(connection: Connection, symbol: str, timeframe: str) -> list[tuple[str, str]]:
    """Basis and feed of every series of bars that there is of a symbol."""
    rows = await connection.fetch(
        "SELECT DISTINCT basis, feed FROM price_observations WHERE symbol = $1 AND dataset = 'bars' AND timeframe = $2 AND rows > 0"
        " ORDER BY basis, feed",
        symbol,
        timeframe,
    )
    return [(row["basis"], row["feed"]) for row in rows]


async def bars(connection: Connection, wanted: SeriesWanted) -> AsyncGenerator[dict[str, object], None]:
    """The bars of a series in order of time; a batch at a time is held in memory."""
    async with connection.transaction(readonly=True):
        found = connection.cursor(
            f"SELECT symbol, timeframe, at, {listed('{0}')}, currency, basis, final, provider, feed FROM price_bars"
            " WHERE symbol = $1 AND timeframe = $2 AND basis = $3 AND feed = $4 AND at >= $5 AND at < $6 ORDER BY at",
            wanted.symbol,
            wanted.timeframe,
            wanted.basis,
            wanted.feed,
            wanted.start or _EVER[0],
            wanted.end or _EVER[1],
            prefetch=_BATCH,
        )
        async for row in found:
            yield dict(row)
