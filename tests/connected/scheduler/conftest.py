"""A provisioned NATS for the tests of clocks."""

from collections.abc import AsyncIterator

import pytest

from quotebus.embedded import NatsServer
from services.runtime.bus import Bus, connect
from services.runtime.jetstream.provision import provision
from services.runtime.jetstream.topology import topology
from services.runtime.settings import NatsSettings, Settings


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to a server that has the streams and buckets, and no provider."""
    async with connect(NatsSettings(url=nats_server.url), "test") as bus:
        await provision(bus.js, topology(Settings(nats=NatsSettings(url=nats_server.url)), {}))
        yield bus
