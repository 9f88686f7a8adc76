"""A provisioned NATS for the tests of clocks."""

from tests.connected.scheduler.clocks import provisioned_bus as bus

__all__ = ["bus"]
