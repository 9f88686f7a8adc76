"""Forgets the history of runs when it is old enough."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from services.cacher.store_postgres_history import HistoryStore
from services.runtime.postgres import POSTGRES_TROUBLE

EVERY_S = 3600.0

log = structlog.get_logger()


async def sweep_history(store: HistoryStore, keep_days: int, every_s: float = EVERY_S) -> None:
    """Delete what is older than `keep_days`, at once and then every hour; runs until cancelled."""
    while True:
        try:
            gone = await store.forget(datetime.now(UTC) - timedelta(days=keep_days))
            if gone:
                log.info("runs_forgotten", runs=gone, older_than_days=keep_days)
        except POSTGRES_TROUBLE as error:
            log.debug("runs_not_forgotten", error=str(error) or type(error).__name__)
        await asyncio.sleep(every_s)
