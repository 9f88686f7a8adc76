"""`quotebus runs --follow`: runs as they go on and end, as bars on a terminal and as lines of JSON elsewhere."""

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quotebus.cli.connections import nats_of, postgres_of
from quotebus.cli.errors import CommandError
from quotebus.cli.runs_shown import RunBars, RunLines

if TYPE_CHECKING:
    from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult
    from quotebus.settings_here import Here

    Event = RunPlanned | RunResult | RunFinished | RunMissed


async def follow_runs(here: "Here", job: str | None, output: str) -> None:
    """Show the runs of a job, or all runs, until interrupted; of those that go on already what has become of them so far."""
    from contracts.run_events import RunFinished, RunMissed
    from quotebus.run_progress import RunsGoing

    going, begun = RunsGoing(), datetime.now(UTC)
    async with aclosing(_events(here, job)) as events:
        with _shown(output) as shown:
            async for event, stored_at in events:
                if isinstance(event, RunMissed):
                    if stored_at >= begun:
                        shown.missed(event)
                    continue
                run = going.take(event)
                if run is not None:
                    shown.going(run)
                elif isinstance(event, RunFinished):
                    shown.over(event, news=stored_at >= begun)


async def _events(here: "Here", job: str | None) -> AsyncGenerator[tuple["Event", datetime], None]:
    import msgspec
    from nats.js.api import DeliverPolicy

    from contracts import subjects
    from contracts.message import decode
    from contracts.run_events import RunFinished, RunMissed, RunPlanned, RunResult
    from services.runtime.follow import follow_stream

    kinds: dict[str, type[Event]] = {"planned": RunPlanned, "result": RunResult, "finished": RunFinished, "missed": RunMissed}
    start = await _oldest_going(here) or DeliverPolicy.NEW
    async with nats_of(here) as qb, aclosing(follow_stream(qb.nc, subjects.RUNS, subjects.run("*", job or "*"), start)) as batches:
        async for message in (message async for batch in batches for message in batch.messages):
            kind = kinds.get(message.subject.split(".")[1])
            try:
                if kind is not None:
                    yield decode(message.data, kind), message.metadata.timestamp
            except msgspec.MsgspecError:
                # The cacher makes a dead letter of it.
                continue


async def _oldest_going(here: "Here") -> datetime | None:
    from quotebus.read_postgres_runs import oldest_going

    try:
        async with postgres_of(here) as connection:
            return await oldest_going(connection)
    except CommandError:
        # The bus alone knows what comes.
        return None


def _shown(output: str) -> RunBars | RunLines:
    if output == "table" and sys.stdout.isatty():
        return RunBars()
    return RunLines("csv" if output == "csv" else "ndjson")
