"""How long one waits for the first answer of the command line, and for the first stored price of `quotebus up`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import asyncpg

from bench.report import Figure
from quotebus.stack.endpoints import FILE_NAME

PROGRAM = Path(sys.executable).parent / "quotebus"


async def figures() -> list[Figure]:
    """Both, in seconds."""
    helps = [_help_s() for _ in range(7)]
    with TemporaryDirectory() as name:
        first = await _first_price_s(Path(name))
        again = await _first_price_s(Path(name))
    return [
        Figure("--help, seconds", median(helps), 0.3, at_most=True),
        Figure("up → first price in Postgres, seconds, new data", first, 8, at_most=True),
        Figure("up → first price in Postgres, seconds, its data again", again, 8, at_most=True),
    ]


def _help_s() -> float:
    began = time.perf_counter()
    subprocess.run([PROGRAM, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


async def _first_price_s(data: Path) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUOTEBUS_")}
    options = ["--data", str(data), "--nats-port", "0", "--postgres-port", "0", "--redis-port", "0"]
    began, started_at = time.perf_counter(), time.time()
    process = await asyncio.create_subprocess_exec(PROGRAM, "up", *options, stdout=subprocess.DEVNULL, env=environment, cwd=data)
    try:
        while not (data / FILE_NAME).exists():
            await asyncio.sleep(0.01)
        connection = await asyncpg.connect(json.loads((data / FILE_NAME).read_text())["postgres"])
        while not await connection.fetchval("SELECT count(*) FROM price_quotes WHERE fetched_at > to_timestamp($1)", started_at):
            await asyncio.sleep(0.01)
        took = time.perf_counter() - began
        await connection.close()
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
    return took
