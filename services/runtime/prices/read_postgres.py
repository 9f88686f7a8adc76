"""Price documents built from Postgres: the cacher fills Redis with them, and whoever finds Redis empty builds the same."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from contracts.price_events import BAR_COLUMNS
from services.runtime.postgres import read_booleans, read_instants
from services.runtime.prices.bar_columns import arrays_sent, read_column
from services.runtime.prices.document import (
    BarsDocument,
    ChainDocument,
    Document,
    IvDocument,
    QuoteDocument,
    as_of_text,
    is_real_flag,
)

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection | PoolConnectionProxy

# 1m and 5m bars are kept in a table a month; without a bound every one of them would be opened.
_MONTHLY_REACH = timedelta(days=62)
_MONTHLY = ("1m", "5m")

# Which series speaks for a symbol: real before made up; one observed within a week of the freshest before one left behind; then
# split-adjusted, raw, fully adjusted; then by the feed's name. A series that never had a row does not speak.
_PREFERRED_SERIES = """
SELECT w.symbol, w.timeframe, c.id AS series, c.instrument, c.basis, c.feed, c.currency, c.as_of
FROM unnest($1::text[], $2::text[]) AS w (symbol, timeframe)
JOIN instruments i ON i.symbol = w.symbol
CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT s.*, o.as_of, s.feed <> 'synthetic' AS is_real,
            o.as_of > max(o.as_of) OVER (PARTITION BY s.feed <> 'synthetic') - interval '7 days' AS is_fresh
        FROM series s
        CROSS JOIN LATERAL (SELECT max(observed_at) AS as_of FROM observations WHERE series = s.id) o
        WHERE s.instrument = i.id AND s.dataset = 'bars' AND s.timeframe = w.timeframe
            AND EXISTS (SELECT FROM observations WHERE series = s.id AND rows > 0)
    ) known
    ORDER BY is_real DESC, is_fresh DESC, array_position(ARRAY['split', 'raw', 'split_dividend'], basis::text), feed LIMIT 1
) c"""
_BARS = f"""
SELECT e.ordinal, b.*
FROM unnest($1::int[], $2::text[], $3::text[]) WITH ORDINALITY AS e (instrument, basis, feed, ordinal)
CROSS JOIN LATERAL (
    SELECT {arrays_sent()}, (array_agg(provider))[1] AS provider
    FROM (
        SELECT * FROM TABLE b WHERE b.instrument = e.instrument AND b.timeframe = 'TIMEFRAME' AND b.basis = e.basis
            AND b.feed = e.feed SINCE ORDER BY b.at DESC LIMIT $4
    ) newest
) b
WHERE b.at IS NOT NULL"""
_QUOTES = """
SELECT DISTINCT ON (i.symbol) i.symbol, q.*, s.currency
FROM unnest($1::text[]) AS w (symbol)
JOIN instruments i ON i.symbol = w.symbol
JOIN quotes q ON q.instrument = i.id
LEFT JOIN series s ON s.instrument = i.id AND s.dataset = 'quote' AND s.timeframe = '' AND s.basis = '' AND s.feed = q.feed
ORDER BY i.symbol, q.feed = 'synthetic', q.observed_at DESC, q.feed"""
_GREEKS = ("iv", "delta", "gamma", "theta", "vega")
_CHAIN_COLUMNS = ("contract", "strike", "right", "bid", "ask", "last", "mark", "volume", "open_interest", *_GREEKS, "at")
_CHAINS = """
SELECT c.*, k.*
FROM (
    SELECT DISTINCT ON (i.symbol) i.symbol, c.instrument, c.feed, c.provider, c.observed_at, s.currency
    FROM unnest($1::text[]) AS w (symbol)
    JOIN instruments i ON i.symbol = w.symbol
    JOIN chains c ON c.instrument = i.id
    LEFT JOIN series s ON s.instrument = i.id AND s.dataset = 'chain' AND s.timeframe = '' AND s.basis = '' AND s.feed = c.feed
    ORDER BY i.symbol, c.feed = 'synthetic', c.observed_at DESC, c.feed
) c
CROSS JOIN LATERAL (
    SELECT array_agg(contract) AS contract, array_agg(expiry::text) AS expiry, array_agg(strike) AS strike,
        array_agg("right") AS "right", array_agg(bid) AS bid, array_agg(ask) AS ask, array_agg(last) AS last,
        array_agg(mark) AS mark, array_agg(volume) AS volume, array_agg(open_interest) AS open_interest, array_agg(iv) AS iv,
        array_agg(delta) AS delta, array_agg(gamma) AS gamma, array_agg(theta) AS theta, array_agg(vega) AS vega,
        array_agg(at) AS at
    FROM (
        SELECT * FROM chain_contracts k WHERE k.instrument = c.instrument AND k.feed = c.feed AND k.observed_at = c.observed_at
        ORDER BY expiry, strike, "right", contract
    ) ordered
) k
WHERE k.contract IS NOT NULL"""

_IV_COLUMNS = ("chain_provider", "at", "iv_30d", "skew_25d", "iv_rank", "iv_percentile", "history_days")
_TERM_COLUMNS = ("expiry", "forward", "iv", "contracts")
_IV = """
SELECT DISTINCT ON (i.symbol) i.symbol, v.*, s.currency
FROM unnest($1::text[]) AS w (symbol)
JOIN instruments i ON i.symbol = w.symbol
JOIN implied_volatilities v ON v.instrument = i.id
LEFT JOIN series s ON s.instrument = i.id AND s.dataset = 'iv' AND s.timeframe = '' AND s.basis = '' AND s.feed = v.feed
ORDER BY i.symbol, v.feed = 'synthetic', v.observed_at DESC, v.feed"""


async def preferred_series(connection: Connection, wanted: Iterable[tuple[str, str]]) -> list[asyncpg.Record]:
    """Of each (symbol, timeframe) that has bars, the series that speaks for it and as of when: what `read_bars` reads."""
    symbols, timeframes = ([*column] for column in zip(*wanted, strict=True))
    rows: list[asyncpg.Record] = await connection.fetch(_PREFERRED_SERIES, symbols, timeframes)
    return rows


async def read_bars(connection: Connection, wanted: Iterable[tuple[str, str]], lookback: int) -> list[BarsDocument]:
    """The newest `lookback` bars of each (symbol, timeframe) that has any, oldest first, of the one series that speaks for it."""
    documents: list[BarsDocument] = []
    # One snapshot: a document that said it was newer than its bars would stop later ones.
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        chosen: dict[str, list[asyncpg.Record]] = defaultdict(list)
        for row in await preferred_series(connection, wanted):
            chosen[row["timeframe"]].append(row)
        for timeframe, series in chosen.items():
            columns = [[row[name] for row in series] for name in ("instrument", "basis", "feed")]
            rows = await connection.fetch(_bars_statement(timeframe, series), *columns, lookback)
            documents += [_bars_document(series[row["ordinal"] - 1], row) for row in rows]
    return documents


async def read_quotes(connection: Connection, symbols: Sequence[str]) -> list[QuoteDocument]:
    """The newest quote of each symbol that has one; a real one if there is any."""
    return [
        QuoteDocument(
            **{
                name: row[name]
                for name in ("symbol", "provider", "currency", "at", "price", "bid", "ask", "previous_close", "volume")
            },
            **_end(row["feed"], row["observed_at"]),
        )
        for row in await connection.fetch(_QUOTES, symbols)
    ]


async def read_chains(connection: Connection, symbols: Sequence[str]) -> list[ChainDocument]:
    """The newest option chain of each underlying that has one; a real one if there is any."""
    return [
        ChainDocument(
            **{name: row[name] for name in ("symbol", "provider", "currency", "expiry", *_CHAIN_COLUMNS)},
            **_end(row["feed"], row["observed_at"]),
        )
        for row in await connection.fetch(_CHAINS, symbols)
    ]


async def read_volatilities(connection: Connection, symbols: Sequence[str]) -> list[IvDocument]:
    """The newest implied volatility of each underlying that has one; a real one if there is any."""
    return [
        IvDocument(
            **{name: row[name] for name in ("symbol", "provider", "currency", *_IV_COLUMNS, *_TERM_COLUMNS)},
            **_end(row["feed"], row["observed_at"]),
        )
        for row in await connection.fetch(_IV, symbols)
    ]


# How the documents of each dataset are read, bars apart.
DOCUMENT_READERS: Mapping[str, Callable[[Connection, Sequence[str]], Awaitable[Sequence[Document]]]] = {
    "quote": read_quotes,
    "chain": read_chains,
    "iv": read_volatilities,
}


def _bars_statement(timeframe: str, series: Sequence[asyncpg.Record]) -> str:
    since = ""
    if timeframe in _MONTHLY:
        oldest = min(row["as_of"] for row in series) - _MONTHLY_REACH
        # A constant in the text, of the month: so the planner leaves out tables, and the statement stays the same for a while.
        since = f"AND b.at >= '{oldest:%Y-%m-01} 00:00:00+00'"
    return _BARS.replace("TABLE", f"bars_{timeframe}").replace("TIMEFRAME", timeframe).replace("SINCE", since)


def _bars_document(series: asyncpg.Record, row: asyncpg.Record) -> BarsDocument:
    at = read_instants(row["at"])[::-1]
    values = {column.name: read_column(column, row[column.name], len(at))[::-1] for column in BAR_COLUMNS}
    return BarsDocument(
        symbol=series["symbol"],
        provider=row["provider"],
        currency=series["currency"],
        timeframe=series["timeframe"],
        columns={"at": at, **values, "final": read_booleans(row["final"])[::-1]},
        basis=series["basis"],
        **_end(series["feed"], series["as_of"]),
    )


def _end(feed: str, as_of: datetime) -> dict[str, Any]:
    return {"feed": feed, "real": is_real_flag(feed), "as_of": as_of_text(as_of)}
