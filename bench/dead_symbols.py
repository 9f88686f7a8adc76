"""What dead symbols cost a run: the first run, which finds them out, and a later one, which knows them."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.report import Figure
from bench.vendor import vendor
from bench.whole_run import whole_run
from contracts.run_events import RunFinished
from tests.connected.deployment import Deployment, deployed

SYMBOLS, DEAD, CALLS_PER_MINUTE = 1500, 34, 3000
# Without pauses the runs together would fill the minute, and one of them would wait for it.
PAUSE_S = 3.0


async def figures() -> list[Figure]:
    """Run times against those of runs without dead symbols, one before and one after, at the pace of the provider's limit."""
    alive = [f"S{number:04d}" for number in range(SYMBOLS)]
    # Spread over the list, as they are in life.
    step = SYMBOLS // DEAD
    some_dead = [f"DEAD{i:04d}" if i % step == 0 and i // step < DEAD else name for i, name in enumerate(alive)]
    with vendor(20) as url, TemporaryDirectory() as folder:
        environment = {
            "QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": url,
            "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0",
            "QUOTEBUS_PROVIDERS__YAHOO__PER_MINUTE": str(CALLS_PER_MINUTE),
            "QUOTEBUS_LOG__LEVEL": "error",
        }
        async with deployed(Path(folder), ("fetcher", "cacher"), environment, fast=False) as deployment:
            await whole_run(deployment, alive[:100])  # what is set up once is in none of the figures
            runs = [await _run(deployment, names) for names in (alive, some_dead, some_dead, alive)]
    (before_s, before), (first_s, first), (later_s, later), (after_s, _) = runs
    none_dead_s = (before_s + after_s) / 2
    said = f"{before_s:.1f} and {after_s:.1f} s with {before.calls['yahoo']} calls and none dead"
    return [
        Figure("run that finds 34 dead, over none dead", first_s / none_dead_s, 1.05, f"{first_s:.1f} s; {said}", at_most=True),
        Figure("later run with them, over none dead", later_s / none_dead_s, 1.05, f"{later_s:.1f} s", at_most=True),
        Figure("calls of the run that finds them out", first.calls["yahoo"], SYMBOLS, f"{first.counts}", at_most=True),
        Figure("calls of a later run", later.calls["yahoo"], SYMBOLS - DEAD, f"{later.counts}", at_most=True),
    ]


async def _run(deployment: Deployment, symbols: list[str]) -> tuple[float, RunFinished]:
    await asyncio.sleep(PAUSE_S)
    return await whole_run(deployment, symbols)
