"""What is stored, as `price`, `history` and `runs` tell it."""

import importlib.util
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from services.runtime.prices.document import QuoteDocument, as_of_text, dataset_key, encode_document
from services.runtime.settings import RedisSettings

NOW = datetime.now(UTC)
DAYS = [datetime(2024, 1, day, tzinfo=UTC) for day in (2, 3, 4)]


@pytest.fixture
async def postgres(migrated: None, postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def keep_bars(postgres: asyncpg.Connection, symbol: str, feed: str, close: float) -> None:
    """Three daily bars of a feed, and the observation that brought them."""
    instrument = await postgres.fetchval(
        "INSERT INTO instruments (symbol) VALUES ($1) ON CONFLICT (symbol) DO UPDATE SET symbol = $1 RETURNING id", symbol
    )
    series = await postgres.fetchval(
        "INSERT INTO series (instrument, dataset, timeframe, basis, feed, currency) VALUES ($1, 'bars', '1d', 'raw', $2, 'USD')"
        " RETURNING id",
        instrument,
        feed,
    )
    await postgres.execute(
        "INSERT INTO observations VALUES ($1, $2, $3, $1, $4, 3, $5)", NOW - timedelta(hours=2), DAYS[0], DAYS[-1], series, feed
    )
    for n, at in enumerate(DAYS):
        await postgres.execute(
            "INSERT INTO bars (at, open, high, low, close, observed_at, instrument, final, timeframe, basis, feed, provider)"
            " VALUES ($1, $2, $2, $2, $2, $3, $4, true, '1d', 'raw', $5, $5)",
            at,
            close + n,
            NOW,
            instrument,
            feed,
        )


async def test_the_price_comes_from_redis_if_it_is_there_else_from_postgres(
    quotebus: Any, postgres: asyncpg.Connection, redis_url: str
) -> None:
    await keep_bars(postgres, "AAPL", "eod", 100.0)
    (row,) = (await quotebus("price", "AAPL", "-o", "ndjson")).rows
    assert (row["price"], row["what"], row["from"], row["feed"]) == (102.0, "1d close", "postgres", "eod")
    quote = QuoteDocument(
        symbol="AAPL", provider="yahoo", currency="USD", at=NOW, price=103.5, bid=None, ask=None, previous_close=None, volume=None,
        feed="consolidated", real=1, as_of=as_of_text(NOW - timedelta(hours=5)),
    )  # fmt: skip
    async with Redis.from_url(redis_url) as redis:
        await redis.set(dataset_key(RedisSettings(), "quote", "AAPL"), encode_document(quote, compress=True))
    ended = await quotebus("price", "AAPL")
    assert ended.code == 0
    fields = ended.out.splitlines()[1].split()
    assert (fields[:4], fields[-1]) == (["AAPL", "103.5", "USD", "quote"], "redis")
    assert re.search(r"\d\.\d h ago", ended.out)
    (row,) = (await quotebus("price", "AAPL", "--timeframe", "1d", "-o", "ndjson")).rows
    assert (row["price"], row["from"]) == (102.0, "postgres")


async def test_a_price_is_found_without_redis_and_a_missing_one_is_named(
    quotebus: Any, postgres: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep_bars(postgres, "AAPL", "eod", 100.0)
    monkeypatch.setenv("QUOTEBUS_REDIS__URL", "redis://127.0.0.1:9/0")
    ended = await quotebus("price", "AAPL", "GONE", "-o", "ndjson")
    assert (ended.code, [row["symbol"] for row in ended.rows]) == (1, ["AAPL"])
    assert "asking PostgreSQL" in ended.err
    assert "nothing is stored of GONE: `quotebus refresh GONE --wait` asks for it" in ended.err


async def test_history_prints_a_range_of_one_series_in_every_form(quotebus: Any, postgres: asyncpg.Connection) -> None:
    await keep_bars(postgres, "BRK.B", "eod", 100.0)
    await keep_bars(postgres, "BRK.B", "synthetic", 500.0)
    rows = (await quotebus("history", "BRK.B", "-o", "ndjson")).rows
    assert [(row["at"], row["close"], row["feed"]) for row in rows] == [
        ("2024-01-02T00:00:00Z", 100.0, "eod"),
        ("2024-01-03T00:00:00Z", 101.0, "eod"),
        ("2024-01-04T00:00:00Z", 102.0, "eod"),
    ]
    ended = await quotebus("history", "BRK.B", "--start", "2024-01-03", "--end", "2024-01-04", "--feed", "synthetic", "-o", "csv")
    header, line = ended.out.splitlines()
    assert header.startswith(
        "symbol,timeframe,at,open,high,low,close,volume,adjusted_close,trade_count,vwap,currency,basis,final,provider"
    )
    assert line.startswith("BRK.B,1d,2024-01-03T00:00:00Z,501.0,501.0,501.0,501.0,,,,,USD,raw,true,synthetic")
    assert len(json.loads((await quotebus("history", "BRK.B", "-o", "json")).out)) == 3


async def test_history_says_what_there_is_when_there_is_no_such_series(quotebus: Any, postgres: asyncpg.Connection) -> None:
    await keep_bars(postgres, "AAPL", "eod", 100.0)
    for options, said in (
        (["AAPL", "--feed", "sip"], "no such 1d bars of AAPL are stored: there is raw eod"),
        (["MSFT"], "no 1d bars of MSFT are stored: `quotebus refresh MSFT --timeframe 1d --wait` asks for them"),
        (["AAPL", "--start", "2025-01-01"], "no 1d bars of AAPL are stored in that time"),
        (["AAPL", "--start", "2025-01-02", "--end", "2025-01-02"], "--end: 2025-01-02 00:00:00 is not after --start"),
    ):
        ended = await quotebus("history", *options)
        assert (ended.code, ended.out, ended.err) == (2, "", f"quotebus: {said}\n")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed here")
async def test_parquet_without_pyarrow_says_what_to_install(quotebus: Any) -> None:
    ended = await quotebus("history", "AAPL", "-o", "parquet")
    assert (ended.code, ended.err) == (2, "quotebus: parquet needs pyarrow: `pip install pyarrow`, or take -o csv\n")


async def test_runs_tell_what_ran_and_what_became_of_each_symbol(quotebus: Any, postgres: asyncpg.Connection) -> None:
    for run, job, finished in (("7", "close", NOW + timedelta(seconds=1.5)), ("8", None, None)):
        await postgres.execute(
            "INSERT INTO runs (run_id, request_id, job, lane, dataset, timeframe, requested_at, wanted_at, deadline_at,"
            " missed_slots, planned, parts, parts_seen, counts, calls, finished_at)"
            " VALUES ($1, $1, $2, 'live', 'bars', '1d', $3, $3, $3, 0, 2, 1, '{1}', $4, $5, $6)",
            run, job, NOW + timedelta(seconds=int(run) - 7), '{"refreshed": 1, "failed": 1}' if finished else None,
            '{"tiingo": 2}' if finished else None, finished,
        )  # fmt: skip
    await postgres.execute(
        "INSERT INTO results (run_id, request_id, symbol, planned, resolved, outcome, reason, rows, calls)"
        " VALUES ('7', '7', 'AAPL', true, true, 'refreshed', NULL, 3, 1),"
        " ('7', '7', 'GONE', true, true, 'failed', 'not_found', 0, 1)"
    )
    rows = (await quotebus("runs", "-o", "ndjson")).rows
    assert [(row["run"], row["job"], row["state"]) for row in rows] == [("8", None, "under way"), ("7", "close", "over")]
    assert (rows[1]["outcomes"], rows[1]["calls"], rows[1]["took_s"]) == ({"refreshed": 1, "failed": 1}, {"tiingo": 2}, 1.5)
    assert [row["run"] for row in (await quotebus("runs", "close", "-o", "ndjson")).rows] == ["7"]
    results = (await quotebus("runs", "--run", "7", "-o", "ndjson")).rows
    assert [(row["symbol"], row["outcome"], row["reason"]) for row in results] == [
        ("AAPL", "refreshed", None),
        ("GONE", "failed", "not_found"),
    ]
    assert (await quotebus("runs", "--run", "9")).err == "quotebus: there is no run 9: `quotebus runs` lists the newest\n"
