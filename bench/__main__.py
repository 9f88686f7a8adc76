"""`python -m bench [MEASUREMENT …]`: run the measurements and print each figure beside its target."""

import asyncio
import importlib
import sys

from bench.report import machine, show

MEASUREMENTS = {
    "pipeline": "The whole way, request to rows: 2,000 symbols, 500 bars each",
    "latency": "Request to event, event to readable",
    "clock": "The clock: 10,000 jobs",
    "start": "Starting",
    "quota": "Use of a limit by 4 fetchers that share it",
    "dead_symbols": "1,500 symbols of which 34 are dead, against none dead",
    "batching": "500 symbols, 50 a call, 20 calls a minute",
    "gateway": "Prices over HTTP",
}


def main() -> None:
    """Run those that are named, or all."""
    wanted = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := [name for name in wanted if name not in MEASUREMENTS]:
        raise SystemExit(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    print(f"on {machine()}")
    for name in wanted:
        figures = asyncio.run(importlib.import_module(f"bench.{name}").figures())
        show(MEASUREMENTS[name], figures)


if __name__ == "__main__":
    main()
