"""Tells the bus of final bars that changed after the fact. The rows were written with the bars, so none is forgotten."""

import asyncio
from collections.abc import Sequence

import nats.errors
import structlog
from nats.js.errors import APIError

from contracts import subjects
from services.cacher.store_postgres.prices import PostgresStore
from services.runtime.bus import Bus
from services.runtime.postgres import POSTGRES_UNAVAILABLE

AT_ONCE = 64
SWEEP_S = 30.0

log = structlog.get_logger()


async def publish_corrections(bus: Bus, store: PostgresStore, ids: Sequence[int] | None = None) -> int:
    """Publish these corrections, or all that nobody was told of; give how many.

    Raises:
        nats.errors.Error, nats.js.errors.APIError, asyncpg.PostgresError, OSError: some are left for the next sweep.
    """
    told = 0
    while corrections := await store.unpublished(ids):
        for first in range(0, len(corrections), AT_ONCE):
            some = corrections[first : first + AT_ONCE]
            await asyncio.gather(
                *(
                    bus.publish(
                        subjects.price_corrected(correction.timeframe, correction.symbol),
                        correction,
                        # Published twice after a crash, it is stored once.
                        message_id=f"correction-{correction.correction_id}",
                    )
                    for correction in some
                )
            )
            await store.published([correction.correction_id for correction in some])
            told += len(some)
    return told


async def sweep_corrections(bus: Bus, store: PostgresStore, every_s: float = SWEEP_S) -> None:
    """Publish what was left over, at once and then again and again; runs until cancelled."""
    while True:
        try:
            told = await publish_corrections(bus, store)
            if told:
                log.info("corrections_swept", corrections=told)
        except (nats.errors.Error, APIError, *POSTGRES_UNAVAILABLE) as error:
            log.debug("corrections_not_swept", error=str(error) or type(error).__name__)
        await asyncio.sleep(every_s)
