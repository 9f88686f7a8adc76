"""When a run is over, whatever the order in which its events come, however often, and whichever cacher gets them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.run_events import RunFinished, RunPlanned, RunResult
from services.cacher.migrate import migrate
from services.cacher.store_postgres.prices import SERVER_SETTINGS
from services.cacher.store_postgres.runs import RunEvent, RunStore
from services.runtime.postgres import open_pool
from services.runtime.settings import PostgresSettings, Secret

WANTED = datetime(2024, 3, 4, 12, tzinfo=UTC)
SYMBOLS = ("AAPL", "BRK.B", "MSFT")
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_numbers = count(1)


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(postgres_url)
    async with open_pool(PostgresSettings(dsn=Secret(postgres_url)), SERVER_SETTINGS) as pool:
        yield pool


@dataclass
class Told:
    """What was told, in order: in each step some events to one of two cachers."""

    steps: list[tuple[int, list[RunEvent]]]

    @property
    def events(self) -> list[RunEvent]:
        return [event for _, events in self.steps for event in events]


def plans(run_id: str, symbols: Sequence[str], parts: int) -> Iterator[RunPlanned]:
    shares = [symbols] if parts == 1 else [symbols[:1], symbols[1:]]
    for number, share in enumerate(shares, 1):
        yield RunPlanned(
            run_id=run_id, request_id="r", lane="live", dataset="bars", requested_at=WANTED, wanted_at=WANTED,
            deadline_at=datetime.now(UTC) + timedelta(hours=1), planned=len(symbols), part=number, parts=len(shares),
            symbols=list(share),
        )  # fmt: skip


@st.composite
def told(draw: st.DrawFn) -> Told:
    """Two runs that want the same tasks, their results, some lost, some told twice, in any order and in any batches."""
    mark = next(_numbers)
    events: list[RunEvent] = []
    for run in (f"a{mark}", f"b{mark}"):
        symbols = draw(st.lists(st.sampled_from(SYMBOLS), unique=True))
        events += plans(run, symbols, draw(st.sampled_from([1, 2])) if symbols else 1)
        for number in range(draw(st.integers(0, 5))):
            symbol = draw(st.sampled_from(SYMBOLS))
            outcome = draw(st.sampled_from(["refreshed", "failed", "merged", "merged", "expired"]))
            called = draw(st.sampled_from([-1, 0, 1, None, None]))
            events.append(
                RunResult(
                    run_id=run, request_id="r", symbol=symbol, outcome=outcome, task=f"task.{mark}.{symbol}", wanted_at=WANTED,
                    provider="yahoo", calls=1, at=WANTED + timedelta(seconds=len(events)), reason=f"why{number % 2}",
                    called_at=None if called is None else WANTED + timedelta(seconds=called),
                )
            )  # fmt: skip
    order = draw(st.permutations(events + draw(st.lists(st.sampled_from(events), max_size=4))))
    order = order[: draw(st.integers(max(0, len(order) - 2), len(order)))]
    steps = []
    while order:
        size = draw(st.integers(1, 5))
        steps.append((draw(st.sampled_from([0, 1])), list(order[:size])))
        order = order[size:]
    return Told(steps)


def is_over(run: str, events: Sequence[RunEvent]) -> bool:
    """The rule, as DESIGN.md has it: written anew, over everything that was told so far."""
    announced = [event for event in events if isinstance(event, RunPlanned) and event.run_id == run]
    if not announced or {event.part for event in announced} != set(range(1, announced[0].parts + 1)):
        return False
    ended = {event.symbol for event in events if isinstance(event, RunResult) and event.run_id == run}
    return all(symbol in ended for event in announced for symbol in event.symbols)


@MANY
@given(told())
async def test_a_run_is_over_exactly_when_the_rule_says_so_and_once(pool: asyncpg.Pool, told: Told) -> None:
    stores = [RunStore(pool), RunStore(pool)]
    runs = {event.run_id for event in told.events}
    so_far: list[RunEvent] = []
    closed: list[RunFinished] = []
    for cacher, events in told.steps:
        so_far += events
        closed += await stores[cacher].write(events)
        assert sorted(finished.run_id for finished in closed) == sorted(run for run in runs if is_over(run, so_far))
    closed += await at_the_deadline(pool, stores[0], runs, closed)
    announced = {event.run_id for event in told.events if isinstance(event, RunPlanned)}
    assert sorted(finished.run_id for finished in closed) == sorted(announced)
    for finished in closed:
        assert sum(finished.counts.values()) == finished.planned
        for outcome, reasons in finished.reasons.items():
            assert sum(reasons.values()) <= finished.counts[outcome]


@MANY
@given(told())
async def test_two_cachers_at_once_close_each_run_once(pool: asyncpg.Pool, told: Told) -> None:
    runs = {event.run_id for event in told.events}
    closed: list[RunFinished] = []

    async def work(number: int) -> None:
        store = RunStore(pool)
        for cacher, events in told.steps:
            if cacher == number:
                closed.extend(await patiently(store, events))

    await asyncio.gather(work(0), work(1))
    closed += [finished for finished in await RunStore(pool).sweep() if finished not in closed and finished.run_id in runs]
    over = sorted(run for run in runs if is_over(run, told.events))
    assert sorted(finished.run_id for finished in closed) == over
    await at_the_deadline(pool, RunStore(pool), runs, closed)


async def patiently(store: RunStore, events: Sequence[RunEvent]) -> list[RunFinished]:
    """As the cacher does it: writers that met try again."""
    while True:
        try:
            return await store.write(events)
        except asyncpg.DeadlockDetectedError:
            continue


async def at_the_deadline(pool: asyncpg.Pool, store: RunStore, runs: set[str], closed: Sequence[RunFinished]) -> list[RunFinished]:
    """Let the runs' time be up; give those that ended by it."""
    for finished in closed:
        assert await store.published(finished)
        assert not await store.published(finished)
    await pool.execute("UPDATE runs SET deadline_at = now() - interval '1 s' WHERE run_id = ANY ($1)", sorted(runs))
    expired = [finished for finished in await store.sweep() if finished.run_id in runs]
    for finished in expired:
        await store.published(finished)
    return expired
