"""Fixtures of the promises: a fake Yahoo, a provisioned bus, a migrated database."""

from collections.abc import AsyncIterator

import pytest

from tests.connected.cacher.store_postgres.database import db
from tests.connected.fake_yahoo import PlayedYahoo
from tests.connected.scheduler.clocks import provisioned_bus as bus

__all__ = ["bus", "db"]


@pytest.fixture
async def yahoo() -> AsyncIterator[PlayedYahoo]:
    """A vendor that takes 20 ms for an answer, so that processes are killed in the middle of calls."""
    async with PlayedYahoo(delay_s=0.02).serve() as played:
        yield played
