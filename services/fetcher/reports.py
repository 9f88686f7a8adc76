"""What the fetcher tells of its work: results and dead letters."""

from datetime import UTC, datetime
from typing import Any

import structlog
from nats.aio.msg import Msg
from prometheus_client import Counter

from contracts import subjects
from contracts.fetch_task import FetchTask
from contracts.run_events import DeadLetter, Outcome, RunResult
from services.runtime.bus import Bus

MAX_BODY = 64 * 1024
RESULTS = Counter("quotebus_results_total", "Symbols by outcome.", ["provider", "outcome", "reason"])
DEAD_LETTERS = Counter("quotebus_dead_letters_total", "Messages given up on.", ["service", "reason"])

log = structlog.get_logger()


async def report_result(bus: Bus, task: FetchTask, outcome: Outcome, **details: Any) -> None:
    """Publish the result of one task; the same outcome of the same task and run counts once."""
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
    """Publish a result under an id of its run, symbol and outcome."""
    RESULTS.labels(result.provider or "", result.outcome, result.reason or "").inc()
    identity = f"{result.run_id}:{result.request_id}:{result.symbol}:{result.outcome}"
    await bus.publish(subjects.run("result", result.job), result, message_id=identity)


async def bury(bus: Bus, msg: Msg, reason: str, message: str, task: FetchTask | None = None) -> None:
    """Publish a message that is given up on as a dead letter; whoever calls then acknowledges it."""
    meta = msg.metadata
    await bury_stored(bus, (meta.stream, meta.sequence.stream, msg.subject, msg.data), reason, message, task)


async def bury_stored(
    bus: Bus, where: tuple[str, int, str, bytes], reason: str, message: str, task: FetchTask | None = None
) -> None:
    """`bury` for a message known by stream, sequence, subject and body."""
    stream, sequence, subject, body = where
    letter = DeadLetter(
        reason=reason,
        message=message,
        service="fetcher",
        subject=subject,
        stream=stream,
        sequence=sequence,
        body=body[:MAX_BODY].decode(errors="replace"),
        symbol=task.symbol if task else None,
        provider=task.provider if task else None,
        run_id=task.run_id if task else None,
        request_id=task.request_id if task else None,
        at=datetime.now(UTC),
    )
    DEAD_LETTERS.labels("fetcher", reason).inc()
    log.warning("dead_letter", reason=reason, error=message, subject=subject)
    await bus.publish(subjects.dead(reason), letter, message_id=f"{stream}:{sequence}:{reason}")
