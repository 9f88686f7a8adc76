"""The order rule on a real Postgres: newer wins, older and equal change nothing, and what does not change is not written."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from contracts.price_events import BAR_COLUMN_NAMES
from services.cacher.decode_event import SeriesKey
from services.cacher.store_postgres.prices import PostgresStore
from tests.cacher.events import DAY, FIRST, NOON, actions, bars, chain, quarantined, quote, read, volatility
from tests.connected.cacher.store_postgres.database import Database


async def test_bars_come_back_to_the_digit(db: Database) -> None:
    event = bars(closes=(0.1 + 0.2, 123456.789, 1e-9 + 1), volume=[None, 5.0, 0.0], adjusted_close=[None, 1.5, None])
    written = await db.write(event)
    rows = await db.pool.fetch("SELECT * FROM price_bars ORDER BY at")
    assert [row["close"] for row in rows] == event.close
    assert [row["volume"] for row in rows] == [None, 5.0, 0.0]
    assert [row["adjusted_close"] for row in rows] == [None, 1.5, None]
    assert [row["at"] for row in rows] == event.at
    assert {(row["currency"], row["provider"], row["feed"], row["basis"], row["final"]) for row in rows} == {
        ("USD", "yahoo", "delayed", "split", True)
    }
    assert written.changed_bars == 3


async def test_an_unchanged_refresh_writes_an_observation_and_no_bar(db: Database) -> None:
    await db.write(bars())
    before = await db.pool.fetch("SELECT xmin, ctid, observed_at FROM bars ORDER BY at")
    written = await db.write(bars(minute=1))
    assert await db.pool.fetch("SELECT xmin, ctid, observed_at FROM bars ORDER BY at") == before
    assert written.updates[SeriesKey("AAPL", "bars", "1d", "split", "delayed")].changed is False
    assert await db.count("observations") == 2


async def test_an_unchanged_refresh_writes_less_than_a_byte_of_wal_per_row(db: Database) -> None:
    events = [bars(f"S{n}", tuple(float(close) for close in range(1, 501))) for n in range(20)]
    await db.write(*events)
    await db.pool.execute("VACUUM bars_1d")
    later = [msgspec.structs.replace(event, observed_at=event.observed_at + DAY) for event in events]
    # The first time after a checkpoint whole pages are logged, whatever is written on them.
    await db.write(*later)
    start = await db.pool.fetchval("SELECT pg_current_wal_insert_lsn()")
    size = await db.pool.fetchval("SELECT pg_relation_size('bars_1d')")
    await db.write(*(msgspec.structs.replace(event, observed_at=event.observed_at + DAY) for event in later))
    assert await db.pool.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", start) <= 20 * 500
    assert await db.pool.fetchval("SELECT pg_relation_size('bars_1d')") == size


async def test_an_older_event_fills_what_no_newer_one_looked_at(db: Database) -> None:
    await db.write(bars(closes=(10.0,), minute=5))
    written = await db.write(bars(closes=(9.0, 9.1, 9.2), minute=1))
    assert await db.closes() == [10.0, 9.1, 9.2]
    assert written.changed_bars == 2


async def test_an_empty_answer_is_an_observation_that_keeps_older_bars_out(db: Database) -> None:
    asked = {"asked_from": FIRST, "asked_to": FIRST + 5 * DAY}
    await db.write(bars(closes=(), minute=5, **asked))
    await db.write(bars(closes=(9.0,), minute=1))
    assert await db.closes() == []
    await db.write(bars(closes=(9.0,), minute=6))
    assert await db.closes() == [9.0]


async def test_an_empty_answer_leaves_stored_bars_alone(db: Database) -> None:
    await db.write(bars())
    await db.write(bars(closes=(), minute=5, asked_from=FIRST, asked_to=FIRST + 5 * DAY))
    assert await db.closes() == [10.0, 11.0, 12.0]


async def test_a_forming_bar_moves_and_then_becomes_final_without_a_correction(db: Database) -> None:
    for minute, (close, final) in enumerate([(10.0, False), (11.0, False), (11.0, True)]):
        await db.write(bars(closes=(close,), minute=minute, final=[final]))
    assert await db.pool.fetchrow("SELECT close, final FROM bars") == (11.0, True)
    assert await db.count("corrections") == 0


async def test_a_changed_final_bar_is_a_correction_with_what_was_and_what_is(db: Database) -> None:
    await db.write(bars())
    written = await db.write(bars(closes=(10.0, 11.25, 12.0), minute=1))
    [correction] = await db.store.unpublished(written.corrections)
    assert (correction.symbol, correction.timeframe, correction.at) == ("AAPL", "1d", FIRST + DAY)
    assert correction.before == [11.0, 11.5, 10.5, 11.0, 1000.0]
    assert correction.after == [11.25, 11.75, 10.75, 11.25, 1000.0]
    await db.store.published([correction.correction_id])
    assert await db.store.unpublished() == []


async def test_a_new_adjusted_close_is_stored_and_is_no_correction(db: Database) -> None:
    await db.write(bars(closes=(10.0,), adjusted_close=[9.0]))
    written = await db.write(bars(closes=(10.0,), minute=1, adjusted_close=[8.5]))
    assert (written.changed_bars, written.corrections) == (1, [])
    await db.write(bars(closes=(10.0,), minute=2))
    assert await db.pool.fetchval("SELECT adjusted_close FROM bars") == 8.5


async def test_new_bars_after_stored_ones_are_the_only_rows_written(db: Database) -> None:
    await db.write(bars())
    written = await db.write(bars(closes=(10.0, 11.0, 12.0, 13.0), minute=1))
    assert written.changed_bars == 1
    assert await db.closes() == [10.0, 11.0, 12.0, 13.0]


async def test_parts_of_one_answer_share_their_instant_and_are_all_stored(db: Database) -> None:
    asked = {"asked_from": FIRST, "asked_to": FIRST + 10 * DAY}
    later = bars(closes=(13.0, 14.0), at=[FIRST + 3 * DAY, FIRST + 4 * DAY], **asked)
    await db.write(bars(**asked))
    await db.write(later)
    assert await db.closes() == [10.0, 11.0, 12.0, 13.0, 14.0]


async def test_many_events_of_one_series_in_one_batch_end_as_the_newest_says(db: Database) -> None:
    written = await db.write(*(bars(closes=(float(10 + n), 20.0), minute=n) for n in range(12)))
    assert await db.closes() == [21.0, 20.0]
    assert written.changed_bars == 2 + 11
    assert await db.count("observations") == 12


async def test_series_of_another_basis_or_feed_stand_beside_each_other(db: Database) -> None:
    await db.write(bars(closes=(10.0,)), bars(closes=(20.0,), basis="raw"), bars(closes=(30.0,), feed="synthetic"))
    assert sorted(await db.closes()) == [10.0, 20.0, 30.0]


async def test_minutes_go_to_the_table_of_their_month(db: Database) -> None:
    start = datetime(2024, 1, 31, 23, 58, tzinfo=UTC)
    event = bars(closes=(1.0, 2.0, 3.0, 4.0), timeframe="1m", at=[start + timedelta(minutes=n) for n in range(4)])
    await db.write(event)
    assert await db.closes(timeframe="1m") == [1.0, 2.0, 3.0, 4.0]
    assert (await db.count("bars_1m_202401"), await db.count("bars_1m_202402")) == (2, 2)
    written = await db.write(msgspec.structs.replace(event, observed_at=event.observed_at + DAY, close=[1.0, 2.2, 3.2, 4.0]))
    assert written.changed_bars == 2


async def test_a_table_of_a_month_that_was_dropped_is_made_again(db: Database) -> None:
    event = bars(closes=(1.0,), timeframe="5m")
    await db.write(event)
    await db.pool.execute("DROP TABLE bars_5m_202401")
    with pytest.raises(asyncpg.UndefinedTableError):
        await db.write(event)
    await db.write(event)
    assert await db.closes(timeframe="5m") == [1.0]


async def test_two_writers_at_once_neither_deadlock_nor_lose_a_row(db: Database) -> None:
    symbols = [f"S{n}" for n in range(40)]
    other = PostgresStore(db.pool)

    async def feed(store: PostgresStore, names: list[str], parity: int) -> None:
        for round_number in range(6):
            minute = 2 * round_number + parity
            events = read(*(bars(name, (10.0 + minute, 20.0), minute=minute) for name in names))
            await store.write(events)

    await asyncio.gather(feed(db.store, symbols, 0), feed(other, symbols[::-1], 1))
    rows = await db.pool.fetch("SELECT symbol, array_agg(close ORDER BY at) AS closes FROM price_bars GROUP BY symbol")
    assert {tuple(row["closes"]) for row in rows} == {(21.0, 20.0)}
    assert len(rows) == 40
    assert await db.count("observations") == 40 * 12


async def test_a_failed_batch_leaves_nothing_behind(db: Database) -> None:
    good, bad = read(bars("GOOD"), bars("BAD"))
    bad.bars.values[BAR_COLUMN_NAMES.index("high")][1] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(asyncpg.CheckViolationError):
        await db.store.write([good, bad])
    assert [await db.count(table) for table in ("bars", "observations", "instruments")] == [0, 0, 0]


async def test_quotes_actions_chains_and_quarantine_keep_the_newest_once(db: Database) -> None:
    await db.write(quote(price=11.0, minute=1), quote(price=10.0), actions(minute=1), actions(amount=9.0), chain(minute=1), chain())
    await db.write(quarantined(), quarantined(), quote(price=11.0, minute=1), chain(minute=1))
    assert [row["price"] for row in await db.pool.fetch("SELECT price FROM price_quotes")] == [11.0]
    assert [row["amount"] for row in await db.pool.fetch("SELECT amount FROM price_actions ORDER BY date, amount")] == [
        None,
        0.24,
        1.0,
    ]
    assert [row["bid"] for row in await db.pool.fetch("SELECT bid FROM price_chains")] == [2.5, 2.5]
    assert [row["rule"] for row in await db.pool.fetch("SELECT rule FROM price_quarantine ORDER BY rule")] == [
        "low above high",
        "no instant",
    ]


async def test_a_contract_that_left_the_chain_is_no_longer_shown(db: Database) -> None:
    await db.write(chain(strikes=(100.0, 110.0)))
    await db.write(chain(strikes=(110.0, 120.0), minute=1))
    assert [row["strike"] for row in await db.pool.fetch("SELECT strike FROM price_chains ORDER BY strike")] == [110.0, 120.0]


async def test_of_volatility_the_last_of_each_day_stays(db: Database) -> None:
    hour = timedelta(hours=1)
    await db.write(volatility(at=NOON, iv_30d=0.2), volatility(at=NOON + hour, iv_30d=0.3), volatility(at=NOON - DAY, iv_30d=0.1))
    await db.write(volatility(at=NOON + hour / 2, iv_30d=0.9), volatility(at=NOON + DAY, iv_30d=0.4, iv_rank=0.5, history_days=30))
    # On a Saturday the quotes are still Friday's.
    await db.write(volatility(at=NOON + DAY, iv_30d=0.5, observed_at=NOON + 3 * DAY))
    # Nothing of use was known: the day keeps what it had.
    await db.write(volatility(at=NOON + 4 * DAY, expiry=[], forward=[], iv=[], contracts=[], iv_30d=None))
    rows = await db.pool.fetch("SELECT date - $1::date AS day, iv_30d, iv_rank, forward FROM price_iv ORDER BY date", NOON.date())
    assert [tuple(row) for row in rows] == [(-1, 0.1, None, [100.0]), (0, 0.3, None, [100.0]), (1, 0.5, None, [100.0])]
    assert await db.count("observations") == 7


async def test_a_series_tells_its_newest_observation_before_and_after(db: Database) -> None:
    key = SeriesKey("AAPL", "bars", "1d", "split", "delayed")
    first = (await db.write(bars())).updates[key]
    second = (await db.write(bars(minute=3))).updates[key]
    older = (await db.write(bars(minute=1))).updates[key]
    assert (first.before, first.newest, first.changed) == (None, NOON, True)
    assert (second.before, second.newest, second.changed) == (NOON, NOON + timedelta(minutes=3), False)
    assert older.newest == NOON + timedelta(minutes=3)


async def test_readers_may_read_the_views_and_nothing_else(db: Database) -> None:
    await db.write(bars())
    async with db.pool.acquire() as connection, connection.transaction():
        await connection.execute("GRANT quotebus_reader TO CURRENT_USER")
        await connection.execute("SET LOCAL ROLE quotebus_reader")
        assert await connection.fetchval("SELECT count(*) FROM price_bars") == 3
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM bars")
