"""Columns of numbers as Postgres sends arrays in binary (`array_send`), read at once instead of one by one.

Source: src/backend/utils/adt/arrayfuncs.c, array_send: 20 bytes of header for one dimension, then each element as its length and
its bytes, big-endian. Only arrays without nulls: NaN, or -1 of an integer, is sent in their place.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isnan
from struct import Struct
from typing import Any

_HEADER_BYTES = 20
_LENGTH_BYTES = 4
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


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
