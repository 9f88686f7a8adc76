"""A process of `quotebus up`, and commands run beside it."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.connected.deployment import until

PROGRAM = str(Path(sys.executable).parent / "quotebus")


@asynccontextmanager
async def started(data: Path) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    options = ["--data", str(data), "--nats-port", "0", "--postgres-port", "0", "--redis-port", "0", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUOTEBUS_")}
    process = await asyncio.create_subprocess_exec(PROGRAM, "up", *options, stdout=PIPE, cwd=data.parent, env=environment)
    try:
        await until(lambda: _exists(data / "endpoints.json"), timeout_s=60)
        yield process, json.loads((data / "endpoints.json").read_text())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _exists(file: Path) -> bool:
    return file.exists()


async def quotebus(data: Path, *words: str) -> tuple[int | None, str]:
    environment = {**os.environ, "QUOTEBUS_DATA": str(data)}
    process = await asyncio.create_subprocess_exec(PROGRAM, *words, stdout=PIPE, stderr=PIPE, cwd=data.parent, env=environment)
    out, _ = await process.communicate()
    return process.returncode, out.decode()
