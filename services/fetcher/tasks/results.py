"""Results of tasks, published on RUNS: one a planned symbol."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.js.errors import APIError
from nats.js.kv import KeyValue
from prometheus_client import Counter

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.run_events import Outcome, RunResult
from services.runtime.bus import Bus

RESULTS = Counter("quotebus_results_total", "Symbols by outcome.", ["provider", "outcome", "reason"])

log = structlog.get_logger()


async def report_result(bus: Bus, task: FetchTask, outcome: Outcome, **details: Any) -> None:
    """Publish the result of one task."""
    subject = subjects.fetch_task(task)
    result = RunResult(
        run_id=task.run_id,
        request_id=task.request_id,
        job=task.job,
        symbol=task.symbol,
        outcome=outcome,
        provider=task.provider,
        task=subject,
        wanted_at=task.wanted_at,
        at=datetime.now(UTC),
        **details,
    )
    await publish_result(bus, result)


async def publish_result(bus: Bus, result: RunResult) -> None:
    """Publish a result. A symbol of a run has one: a further one, after a crash between this and an acknowledgement, is dropped."""
    RESULTS.labels(result.provider or "", result.outcome, result.reason or "").inc()
    identity = f"{result.run_id}:{result.request_id}:{result.symbol}"
    await bus.publish(subjects.run("result", result.job), result, message_id=identity)


async def tell_state(bucket: KeyValue, provider: str, **what: object) -> None:
    """Keep a provider's state where `quotebus status` and `doctor` look. Best effort: the work does not depend on it."""
    try:
        await bucket.put(f"provider.{provider}", msgspec.json.encode({"provider": provider, "at": datetime.now(UTC), **what}))
    except (nats.errors.Error, APIError) as error:
        log.debug("state_publish_failed", provider=provider, error=str(error))
