"""Runs on a real Postgres: each is closed once, when every symbol has its last word or its time is up."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest

from contracts.run_events import RunFinished, RunResult
from services.cacher.migrate import migrate
from services.cacher.store_postgres.prices import SERVER_SETTINGS
from services.cacher.store_postgres.runs import RunStore
from services.runtime.postgres import open_pool
from services.runtime.settings import PostgresSettings, Secret
from tests.connected.cacher.run_events import TASK, WANTED, planned, result


@pytest.fixture
async def runs(postgres_url: str) -> AsyncIterator[RunStore]:
    await migrate(postgres_url)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        yield RunStore(pool)


async def test_a_run_is_over_when_its_last_symbol_has_a_result(runs: RunStore) -> None:
    assert await runs.write([planned("AAPL", "MSFT"), result()]) == []
    [finished] = await runs.write([result("MSFT", "failed", reason="not_found")])
    assert (finished.run_id, finished.request_id, finished.planned) == ("1", "r", 2)
    assert finished.counts == {"refreshed": 1, "failed": 1}
    assert finished.calls == {"yahoo": 2}
    assert finished.started_at == WANTED


async def test_a_run_is_over_once_however_often_its_events_come(runs: RunStore) -> None:
    events = [planned("AAPL"), result()]
    assert len(await runs.write(events)) == 1
    assert await runs.write(events) == []
    assert await runs.write([result()]) == []


async def test_results_may_come_before_the_plan(runs: RunStore) -> None:
    assert await runs.write([result("MSFT"), result()]) == []
    assert len(await runs.write([planned("AAPL", "MSFT")])) == 1


async def test_a_run_announced_in_parts_waits_for_all_of_them(runs: RunStore) -> None:
    first = planned("AAPL", parts=2, part=1, planned=2)
    assert await runs.write([first, first, result()]) == []
    assert await runs.write([result("MSFT")]) == []
    assert len(await runs.write([planned("MSFT", parts=2, part=2, planned=2)])) == 1


async def test_a_run_without_symbols_is_over_at_once(runs: RunStore) -> None:
    [finished] = await runs.write([planned()])
    assert finished.counts == {}


async def test_a_refused_run_is_over_at_once_and_has_failed(runs: RunStore) -> None:
    [finished] = await runs.write([planned(refused="universe activ is not defined")])
    assert (finished.counts, finished.state, finished.refused) == ({}, "failed", "universe activ is not defined")


async def test_a_merged_symbol_is_done_whatever_is_known_of_the_call(runs: RunStore) -> None:
    merged = result(outcome="merged", run_id="2", request_id="q", called_at=None, calls=0)
    [finished] = await runs.write([planned("AAPL", run_id="2", request_id="q"), merged])
    assert (finished.run_id, finished.counts) == ("2", {"merged": 1})


async def test_a_merged_symbol_that_names_the_call_that_served_it_is_done(runs: RunStore) -> None:
    assert len(await runs.write([planned("AAPL"), result(outcome="merged", reason="served")])) == 1


async def test_the_result_of_another_run_ends_no_symbol_of_this_one(runs: RunStore) -> None:
    assert await runs.write([planned("AAPL", run_id="2"), result(run_id="1")]) == []


async def test_a_definite_result_stands_against_a_later_merged_or_expired_one(runs: RunStore) -> None:
    events = [
        planned("AAPL", "MSFT"),
        result(),
        result(outcome="merged", second=5, called_at=None),
        result(outcome="expired", second=9),
    ]
    await runs.write(events)
    [finished] = await runs.write([result("MSFT")])
    assert finished.counts == {"refreshed": 2}


async def test_a_merged_result_gives_way_to_a_definite_one(runs: RunStore) -> None:
    [finished] = await runs.write([planned("AAPL"), result(outcome="merged", called_at=None), result(outcome="failed", second=-5)])
    assert finished.counts == {"failed": 1}


async def test_at_the_deadline_what_has_no_result_is_expired(runs: RunStore) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    await runs.write([planned("AAPL", "MSFT", "TSLA", deadline_at=past), result()])
    [finished] = await runs.sweep()
    assert finished.counts == {"refreshed": 1, "expired": 2}
    await runs.published(finished)
    assert await runs.sweep() == []


async def test_a_run_that_nobody_was_told_of_is_told_by_the_next_sweep(runs: RunStore) -> None:
    [finished] = await runs.write([planned("AAPL"), result()])
    assert await runs.sweep() == [finished]
    await runs.published(finished)
    assert await runs.sweep() == []


async def test_run_ids_that_begin_again_are_other_runs(runs: RunStore) -> None:
    assert len(await runs.write([planned("AAPL"), result()])) == 1
    assert await runs.write([planned("AAPL", request_id="again")]) == []
    assert len(await runs.write([result(request_id="again")])) == 1


async def test_of_two_cachers_one_closes_each_run(runs: RunStore) -> None:
    other = RunStore(runs._pool)
    symbols = [f"S{n}" for n in range(60)]
    ids = [str(n) for n in range(5)]
    await runs.write([planned(*symbols, run_id=run_id) for run_id in ids])
    results = [result(symbol, run_id=run_id, task=f"{TASK}{symbol}") for symbol in symbols for run_id in ids]

    async def feed(store: RunStore, some: list[RunResult]) -> list[RunFinished]:
        return [finished for n in range(0, len(some), 7) for finished in await store.write(some[n : n + 7])]

    closed = await asyncio.gather(feed(runs, results[::2]), feed(other, results[1::2]))
    assert sorted(finished.run_id for one in closed for finished in one) == ids


async def test_a_finished_run_says_how_many_ended_how_and_why_and_names_those_that_failed(runs: RunStore) -> None:
    symbols = [f"S{n:02d}" for n in range(30)]
    bad = [result(symbol, "failed", reason="not_found", task=None, calls=0) for symbol in symbols[:22]]
    late = [result(symbol, "expired", reason="expired", task=None, calls=0) for symbol in symbols[22:25]]
    skipped = [result(symbol, "skipped", reason="fresh", task=None, calls=0) for symbol in symbols[25:]]
    [finished] = await runs.write([planned(*symbols, missed_slots=4, timeframe="1d"), *bad, *late, *skipped])
    assert finished.reasons == {"failed": {"not_found": 22}, "expired": {"expired": 3}, "skipped": {"fresh": 5}}
    assert finished.failed_symbols == symbols[:20]
    assert (finished.failed, finished.state) == (25, "partial")
    assert (finished.lane, finished.dataset, finished.timeframe, finished.missed_slots) == ("live", "bars", "1d", 4)
    assert await runs.sweep() == [finished]


async def test_symbols_of_a_part_that_never_came_have_expired_at_the_deadline(runs: RunStore) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    await runs.write([planned("AAPL", planned=3, parts=2, deadline_at=past)])
    [finished] = await runs.sweep()
    assert (finished.counts, finished.reasons) == ({"expired": 3}, {"expired": {"deadline": 1, "unannounced": 2}})


async def test_what_was_asked_for_is_kept_with_the_run_so_that_it_can_be_asked_again(runs: RunStore) -> None:
    await runs.write([planned("AAPL", start=date(2024, 1, 2), end=date(2024, 2, 1), provider="yahoo")])
    [row] = await runs._pool.fetch("SELECT range_start, range_end, provider FROM run_history")
    assert tuple(row) == (date(2024, 1, 2), date(2024, 2, 1), "yahoo")
