"""Seeded random numbers: each depends on its seed alone, the same in every process."""

import math
from hashlib import blake2b
from itertools import pairwise
from struct import Struct

_KEY = Struct("<Qqq")
_POINTS = Struct("<32h")


def key_of(text: str) -> int:
    """Return a key of 64 bits."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def chance(text: str) -> float:
    """Return a number in [0, 1)."""
    return (key_of(text) >> 11) / 2.0**53


def chances(key: int, where: int, what: int = 0) -> bytes:
    """64 random bytes for a place, which are numbers from 0 to 255."""
    # One digest is cheaper than a handful of mixed integers in Python.
    return blake2b(_KEY.pack(key, where, what)).digest()


def random_walk(key: int, first: int, count: int) -> list[float]:
    """Return a path like a random walk's, at the integers from `first` on; it can be entered anywhere and stays within 127 of 0.

    Straight lines between random points, at each power of four of distance up to 4,096, and the wider the higher.
    """
    path = [0.0] * count
    for octave in range(7):
        length = 4**octave
        # The octaves' corners must not meet.
        cell, within = divmod(first + key % length, length)
        cells = -(-(within + count) // length)
        height = math.sqrt(length) / 32768
        points = [height * point for point in _points(key, octave, cell, cells + 1)]
        layer = points if length == 1 else []
        for left, right in pairwise(points) if length > 1 else ():
            slope = (right - left) / length
            layer += [left + slope * step for step in range(length)]
        path = [below + above for below, above in zip(path, layer[within:], strict=False)]
    return path


def _points(key: int, octave: int, first: int, count: int) -> list[int]:
    block, skip = divmod(first, 32)
    found: list[int] = []
    while len(found) < skip + count:
        found += _POINTS.unpack(chances(key, block, octave + 1))
        block += 1
    return found[skip : skip + count]
