"""P7: an older price never overwrites a newer one, and the same event twice changes nothing."""

from itertools import permutations

import pytest

from tests.cacher.events import DAY, FIRST, bars
from tests.connected.cacher.store_postgres.database import Database


async def test_the_same_event_twice_changes_nothing(db: Database) -> None:
    await db.write(bars())
    before = await db.pool.fetch("SELECT xmin, * FROM bars ORDER BY at")
    written = await db.write(bars(), bars())
    assert await db.pool.fetch("SELECT xmin, * FROM bars ORDER BY at") == before
    assert written.changed_bars == 0
    assert await db.count("observations") == 1


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("together", [True, False])
async def test_in_whatever_order_events_come_the_newest_prices_stay(db: Database, order: tuple[int, ...], together: bool) -> None:
    events = [bars(closes=(10.0 + n, 11.0 + n, 12.0 + n), minute=n) for n in range(3)]
    shuffled = [events[n] for n in order]
    if together:
        await db.write(*shuffled)
    else:
        for event in shuffled:
            await db.write(event)
    assert await db.closes() == [12.0, 13.0, 14.0]


async def test_an_older_event_does_not_bring_back_a_bar_that_a_newer_answer_no_longer_has(db: Database) -> None:
    asked = {"asked_from": FIRST, "asked_to": FIRST + 5 * DAY}
    await db.write(bars(closes=(10.0,), minute=5, **asked))
    await db.write(bars(closes=(9.0, 9.0, 9.0), minute=1, **asked))
    assert await db.closes() == [10.0]


async def test_an_unfinished_bar_never_replaces_a_final_one(db: Database) -> None:
    await db.write(bars(closes=(10.0,)))
    await db.write(bars(closes=(11.0,), minute=1, final=[False]))
    assert await db.closes() == [10.0]
