"""How much of a limit four fetchers use that share it while there is work: calls in sliding windows, by the provider's clock."""

import asyncio
import json
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from bench.report import Figure
from bench.vendor import vendor
from contracts import subjects
from contracts.refresh_request import RefreshRequest
from tests.connected.deployment import deployed

FETCHERS = ("fetcher", "fetcher2", "fetcher3", "fetcher4")
# Length in seconds: calls allowed, the design's target, how long to measure.
WINDOWS = {1: (20, 0.6, 20), 5: (50, 0.8, 30), 20: (100, 0.85, 65), 60: (300, 0.97, 185)}


async def figures() -> list[Figure]:
    """Of every length: the calls in a sliding window as shares of the limit, on average, the fewest and the most."""
    found: list[Figure] = []
    for length_s, (limit, target, lasting_s) in WINDOWS.items():
        calls = await _arrivals(length_s, limit, lasting_s)
        counts = in_every_window(calls, length_s)
        note = f"of {limit} calls; {len(counts)} windows"
        found += [
            Figure(f"{length_s} s window: use of the limit, mean", fmean(counts) / limit, target, note),
            Figure(f"{length_s} s window: the window with the fewest calls", min(counts) / limit, None),
            Figure(f"{length_s} s window: the window with the most calls", max(counts) / limit, 1.0, at_most=True),
        ]
    return found


def in_every_window(calls: Sequence[float], length_s: float) -> list[int]:
    """How many calls there are in each window that begins with one of them and is over before the last."""
    begins = [i for i, call in enumerate(calls) if call + length_s <= calls[-1]]
    return [bisect_left(calls, calls[i] + length_s) - i for i in begins]


async def _arrivals(length_s: int, limit: int, lasting_s: float) -> list[float]:
    with vendor(5) as url, TemporaryDirectory() as name:
        environment = {
            "QUOTEBUS_PROVIDERS__YAHOO__BASE_URL": url,
            "QUOTEBUS_PROVIDERS__YAHOO__PER_SECOND": "0",
            f"QUOTEBUS_PROVIDERS__YAHOO__WINDOWS__{length_s}S": str(limit),
            "QUOTEBUS_LOG__LEVEL": "warning",
        }
        async with deployed(Path(name), (), environment, fast=False, redis=False) as deployment:
            await asyncio.gather(*(deployment.start(fetcher, "fetcher") for fetcher in FETCHERS))
            asked = [f"S{number:05d}" for number in range(int(limit * (lasting_s / length_s + 2)))]
            await deployment.bus.publish(subjects.refresh_request("live"), RefreshRequest(symbols=asked))
            before = len(_seen(url))
            await asyncio.sleep(lasting_s)
            return sorted(_seen(url))[before:]


def _seen(url: str) -> list[float]:
    with urlopen(f"{url}/arrivals", timeout=5) as answer:
        arrivals: list[float] = json.load(answer)
    return arrivals
