"""Postgres pools: server settings, transient errors, and arrays in the binary protocol."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isnan
from struct import Struct
from typing import Any

import asyncpg

from services.runtime.settings import PostgresSettings

# A connection that the server ends between two statements is an InternalClientError to whoever uses it next.
POSTGRES_UNAVAILABLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

_HEADER_BYTES = 20
_LENGTH_BYTES = 4
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def open_pool(settings: PostgresSettings, session: Mapping[str, str], connect_s: float = 5) -> AsyncIterator[asyncpg.Pool]:
    """Give a pool that connects when first used. `session`: the settings of each connection; `connect_s`: patience with one."""
    pool = asyncpg.create_pool(
        settings.dsn.get_secret_value(),
        min_size=0,
        max_size=settings.pool_size,
        timeout=connect_s,
        command_timeout=30,
        server_settings=dict(session),
    )
    async with pool:
        try:
            yield pool
        finally:
            # Closing would wait for a server that does not answer; nothing is under way that is not safe to lose.
            pool.terminate()


def read_floats(array: bytes) -> list[float]:
    """The numbers of a float8[]."""
    return _elements(array, "d", 8)


def read_nullable_floats(array: bytes | None, count: int) -> list[float | None]:
    """The numbers of a float8[] in which NaN stands for null; all null when there is no array."""
    if array is None:
        return [None] * count
    return [None if isnan(value) else value for value in _elements(array, "d", 8)]


def read_integers(array: bytes) -> list[int]:
    """The numbers of an int8[]."""
    return _elements(array, "q", 8)


def read_nullable_integers(array: bytes | None, count: int) -> list[int | None]:
    """The numbers of an int8[] in which those below zero stand for null; all null when there is no array."""
    if array is None:
        return [None] * count
    return [None if value < 0 else value for value in _elements(array, "q", 8)]


def read_booleans(array: bytes) -> list[bool]:
    """The truth values of a boolean[]."""
    return _elements(array, "?", 1)


def read_microseconds(array: bytes) -> list[int]:
    """The instants of a timestamptz[], in microseconds since 2000."""
    return _elements(array, "q", 8)


@lru_cache(maxsize=64)
def read_instants(array: bytes) -> Sequence[datetime]:
    """The instants of a timestamptz[]. Remembered, as many symbols have the same."""
    return [_EPOCH + timedelta(microseconds=value) for value in _elements(array, "q", 8)]


def _elements(array: bytes, code: str, size: int) -> list[Any]:
    count = (len(array) - _HEADER_BYTES) // (_LENGTH_BYTES + size)
    return list(_layout(code, count).unpack_from(array, _HEADER_BYTES))


@lru_cache(maxsize=64)
def _layout(code: str, count: int) -> Struct:
    # The lengths are all alike: skipped.
    return Struct(">" + f"{_LENGTH_BYTES}x{code}" * count)
