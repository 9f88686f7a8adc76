"""Fixture of the store's tests."""

from tests.connected.cacher.store_postgres.database import db

__all__ = ["db"]
