"""All but bars in Postgres. The newer replaces the older; the same twice changes nothing."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from contracts.price_events import PriceActions, PriceChain, PriceIv, PriceQuarantined, PriceQuote
from services.runtime.prices.read_postgres import Connection

_QUOTE = """
INSERT INTO quotes AS q (instrument, feed, provider, at, price, bid, ask, previous_close, volume, observed_at, fetched_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (instrument, feed) DO UPDATE SET provider = excluded.provider, at = excluded.at, price = excluded.price,
    bid = excluded.bid, ask = excluded.ask, previous_close = excluded.previous_close, volume = excluded.volume,
    observed_at = excluded.observed_at, fetched_at = excluded.fetched_at
WHERE q.observed_at < excluded.observed_at"""
_ACTIONS = """
INSERT INTO actions AS a (instrument, feed, provider, observed_at, date, kind, ordinal, ratio, amount)
SELECT $1, $2, $3, $4, * FROM unnest($5::date[], $6::text[], $7::int2[], $8::float8[], $9::float8[])
ON CONFLICT (instrument, date, kind, ordinal, feed) DO UPDATE
SET provider = excluded.provider, ratio = excluded.ratio, amount = excluded.amount, observed_at = excluded.observed_at
WHERE a.observed_at < excluded.observed_at AND (a.ratio, a.amount) IS DISTINCT FROM (excluded.ratio, excluded.amount)"""
_CHAIN = """
INSERT INTO chains AS c (instrument, feed, provider, observed_at, fetched_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (instrument, feed) DO UPDATE
SET provider = excluded.provider, observed_at = excluded.observed_at, fetched_at = excluded.fetched_at
WHERE c.observed_at < excluded.observed_at"""
_CONTRACTS = """
INSERT INTO chain_contracts AS c (instrument, feed, observed_at, contract, expiry, strike, "right", bid, ask, last, mark, volume,
    open_interest, iv, delta, gamma, theta, vega, at)
SELECT $1, $2, $3, * FROM unnest($4::text[], $5::date[], $6::float8[], $7::text[], $8::float8[], $9::float8[], $10::float8[],
    $11::float8[], $12::float8[], $13::float8[], $14::float8[], $15::float8[], $16::float8[], $17::float8[], $18::float8[],
    $19::timestamptz[])
ON CONFLICT (instrument, feed, contract) DO UPDATE SET expiry = excluded.expiry, strike = excluded.strike,
    "right" = excluded.right, bid = excluded.bid, ask = excluded.ask, last = excluded.last, mark = excluded.mark,
    volume = excluded.volume, open_interest = excluded.open_interest, iv = excluded.iv, delta = excluded.delta,
    gamma = excluded.gamma, theta = excluded.theta, vega = excluded.vega, at = excluded.at, observed_at = excluded.observed_at
WHERE c.observed_at < excluded.observed_at"""
_VOLATILITY = """
INSERT INTO implied_volatilities AS v (instrument, feed, provider, date, at, chain_provider, iv_30d, skew_25d, iv_rank,
    iv_percentile, history_days, expiry, forward, iv, contracts, observed_at, fetched_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (instrument, feed, date) DO UPDATE
SET provider = excluded.provider, at = excluded.at, chain_provider = excluded.chain_provider, iv_30d = excluded.iv_30d,
    skew_25d = excluded.skew_25d, iv_rank = excluded.iv_rank, iv_percentile = excluded.iv_percentile,
    history_days = excluded.history_days, expiry = excluded.expiry, forward = excluded.forward, iv = excluded.iv,
    contracts = excluded.contracts, observed_at = excluded.observed_at, fetched_at = excluded.fetched_at
WHERE v.observed_at < excluded.observed_at"""
_QUARANTINE = """
INSERT INTO quarantine (symbol, dataset, timeframe, provider, feed, fetched_at, request_id, run_id, ordinal, at, rule, row)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, ordinal, at, rule, row
FROM unnest($9::timestamptz[], $10::text[], $11::text[]) WITH ORDINALITY AS q (at, rule, row, ordinal)
ON CONFLICT DO NOTHING"""


async def write_quote(connection: Connection, instrument: int, event: PriceQuote) -> None:
    """Keep the newest quote of each feed."""
    numbers = (event.price, event.bid, event.ask, event.previous_close, event.volume)
    await connection.execute(
        _QUOTE, instrument, event.feed, event.provider, event.at, *numbers, event.observed_at, event.fetched_at
    )  # fmt: skip


async def write_actions(connection: Connection, instrument: int, event: PriceActions) -> None:
    """Keep splits and dividends as the newest event tells each."""
    alike: Counter[tuple[object, str]] = Counter()
    ordinals = []
    for occasion in zip(event.date, event.kind, strict=True):
        ordinals.append(alike[occasion])
        alike[occasion] += 1
    columns = (event.date, event.kind, ordinals, event.ratio, event.amount)
    await connection.execute(_ACTIONS, instrument, event.feed, event.provider, event.observed_at, *columns)


async def write_chain(connection: Connection, instrument: int, event: PriceChain) -> None:
    """Keep the newest state of each contract. The parts of one chain share their `observed_at`, and so make one chain again."""
    await connection.execute(_CHAIN, instrument, event.feed, event.provider, event.observed_at, event.fetched_at)
    prices = (event.bid, event.ask, event.last, event.mark, event.volume, event.open_interest)
    greeks = (event.iv, event.delta, event.gamma, event.theta, event.vega)
    columns = (event.contract, event.expiry, event.strike, event.right, *prices, *greeks, event.at)
    await connection.execute(_CONTRACTS, instrument, event.feed, event.observed_at, *columns)


async def write_volatility(connection: Connection, instrument: int, event: PriceIv) -> None:
    """Keep the newest of each day. One without rows says nothing about the day."""
    if not event.expiry:
        return
    told = (event.iv_30d, event.skew_25d, event.iv_rank, event.iv_percentile, event.history_days)
    columns = (event.expiry, event.forward, event.iv, event.contracts)
    await connection.execute(
        _VOLATILITY, instrument, event.feed, event.provider, event.day, event.at, event.chain_provider, *told, *columns,
        event.observed_at, event.fetched_at,
    )  # fmt: skip


async def write_quarantined(connection: Connection, event: PriceQuarantined) -> None:
    """Keep rows that failed validation, as they came."""
    what = (event.symbol, event.dataset, event.timeframe or "", event.provider, event.feed, event.fetched_at)
    # A null character is the one thing that a text cannot hold.
    rules, rows = ([text.replace("\0", "\\0") for text in column] for column in (event.rule, event.row))
    await connection.execute(_QUARANTINE, *what, event.request_id, event.run_id, event.at, rules, rows)


# How each dataset is written, bars apart.
WRITERS: Mapping[str, Callable[[Connection, int, Any], Awaitable[None]]] = {
    "quote": write_quote,
    "chain": write_chain,
    "iv": write_volatility,
    "actions": write_actions,
}
