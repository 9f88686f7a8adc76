"""The difference between this machine's clock and the server's: quota days and windows are counted by both."""

import json
from datetime import UTC, datetime, timedelta

from services.runtime.bus import Bus

MOST = timedelta(seconds=1)


class ClockSkewError(Exception):
    """The clocks differ by more than a second, or cannot be compared; the text says what to do."""


async def clock_skew(bus: Bus) -> timedelta:
    """How far this clock is ahead of the server's, to within half a round trip; the best of three tries."""
    best: tuple[timedelta, timedelta] | None = None
    for _ in range(3):
        asked = datetime.now(UTC)
        reply = await bus.nc.request("$JS.API.STREAM.INFO.REFRESH", b"", timeout=5)
        answered = datetime.now(UTC)
        said = json.loads(reply.data).get("ts")
        if said is None:
            raise ClockSkewError("the server's time is unknown, there is no stream REFRESH: run `quotebus migrate`")
        there = datetime.fromisoformat(said)
        trip = answered - asked
        if best is None or trip < best[0]:
            best = trip, asked + trip / 2 - there
    assert best is not None
    return best[1]


async def refuse_skewed_clock(bus: Bus) -> None:
    """Raise ClockSkewError when the clocks differ by more than a second."""
    skew = await clock_skew(bus)
    if abs(skew) > MOST:
        raise ClockSkewError(
            f"this clock is {skew.total_seconds():+.1f} s off the NATS server's, 1 s at most: synchronise both (chrony, NTP)"
        )
