"""A day's bar taken apart: hours, minutes, seconds whose opens, highs, lows, closes and volumes add up to it exactly."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from services.fetcher.providers.synthetic.noise import chances

# Every timeframe's bars are whole pieces of the next longer one's; no step has more than twelve.
STEPS_S = (21600, 3600, 1800, 900, 300, 60, 5, 1)


class Piece(NamedTuple):
    """A stretch of a session: seconds since it opened (end exclusive), prices in whole ticks."""

    start: int
    end: int
    open: int
    high: int
    low: int
    close: int
    volume: int


def pieces(whole: Piece, length: int, key: int, window: tuple[int, int]) -> list[Piece]:
    """The stretch in pieces of so many seconds, one of STEPS_S (the last may be shorter); only those that touch the window."""
    first, last = window
    found = [whole]
    for step in STEPS_S[: STEPS_S.index(length) + 1]:
        found = [part for piece in found for part in _parts(piece, step, key) if part.end > first and part.start < last]
    return found


def so_far(whole: Piece, second: int, key: int) -> Piece | None:
    """What has happened of the stretch by this second of the session; none before its first second is over."""
    if second >= whole.end:
        return whole
    done: list[Piece] = []
    for step in STEPS_S:
        parts = _parts(whole, step, key)
        done += [part for part in parts if part.end <= second]
        under_way = [part for part in parts if part.start < second < part.end]
        if not under_way:
            break
        whole = under_way[0]
    return joined(done) if done else None


def joined(parts: Sequence[Piece]) -> Piece:
    """Pieces that follow each other, as one."""
    return Piece(
        parts[0].start,
        parts[-1].end,
        parts[0].open,
        max(part.high for part in parts),
        min(part.low for part in parts),
        parts[-1].close,
        sum(part.volume for part in parts),
    )


def _parts(whole: Piece, length: int, key: int) -> list[Piece]:
    """The parts of one piece. One of them reaches its high and one its low, and none goes beyond."""
    start, end, first, high, low, last, volume = whole
    count = -(-(end - start) // length)
    if count == 1:
        return [whole]
    dice = chances(key, start, length)
    top, bottom = dice[62] % count, dice[63] % count
    prices = pairwise([first, *_bridge(whole, count, dice), last])
    volumes = _shares(volume, [64 + dice[5 * i + 4] for i in range(count)])
    found = []
    for i, (a, b) in enumerate(prices):
        up, down = (a, b) if a > b else (b, a)
        h = high if i == top else up + (high - up) * dice[5 * i + 2] // 512
        lo = low if i == bottom else down - (down - low) * dice[5 * i + 3] // 512
        found.append(Piece(start + i * length, min(start + (i + 1) * length, end), a, h, lo, b, volumes[i]))
    return found


def _bridge(whole: Piece, count: int, dice: bytes) -> list[int]:
    """The prices between the parts: from the open to the close on a way that strays most in the middle."""
    first, high, low, last = whole[2:6]
    way = []
    for i in range(1, count):
        stray = (dice[5 * i] * 256 + dice[5 * i + 1]) / 32768 - 1
        straight = first + (last - first) * i / count
        price = round(straight + stray * (high - low) * (i * (count - i)) ** 0.5 / count)
        way.append(min(high, max(low, price)))
    return way


def _shares(volume: int, weights: Sequence[int]) -> list[int]:
    total = sum(weights)
    ends = [volume * weight // total for weight in accumulate(weights)]
    return [b - a for a, b in pairwise([0, *ends])]
