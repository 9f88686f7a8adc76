"""Consumers that an earlier version paused on the server: resumed at start."""

from collections.abc import Iterable

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts import subjects
from contracts.message import LANES

log = structlog.get_logger()


async def resume_paused_consumers(js: JetStreamContext, providers: Iterable[str]) -> None:
    """Resume the paused lane consumers of these providers. Earlier versions paused those of a provider whose calls were blocked."""
    for provider in providers:
        for lane in LANES:
            consumer = subjects.lane_consumer(provider, lane)
            try:
                if not (await js.consumer_info(subjects.TASKS, consumer)).paused:
                    continue
            except NotFoundError:
                continue  # the puller says so, with what to do about it
            await js.resume_consumer(subjects.TASKS, consumer)
            log.info("consumer_resumed", consumer=consumer)
