"""The engine of `quotebus up` in a process of its own, with stand-ins for the services, and what a test asks of it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# Answers /readyz and ends on SIGTERM, as a service does; the stubborn one does not end, the broken one does not even begin.
STAND_IN = """
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

if "broken" in sys.argv:
    print("no such thing")
    sys.exit(3)
assert os.environ["QUOTEBUS_NATS__URL"] and os.environ["QUOTEBUS_POSTGRES__DSN"] and os.environ["QUOTEBUS_REDIS__URL"]
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else lambda *_: os._exit(0))
HTTPServer(("127.0.0.1", int(os.environ["QUOTEBUS_HEALTH__PORT"])), Ready).serve_forever()
"""

# Runs the engine on argv[1] with the services of argv[2:]; creates a table where none is, and says how many rows it found.
UP = """
import asyncio, sys
from pathlib import Path
import asyncpg
from quotebus.stack import StackOptions, up

STAND_IN = sys.stdin.read()

async def prepare(endpoints):
    connection = await asyncpg.connect(endpoints.postgres)
    await connection.execute("CREATE TABLE IF NOT EXISTS starts (n int); INSERT INTO starts VALUES (1)")
    print("rows", await connection.fetchval("SELECT count(*) FROM starts"), flush=True)
    await connection.close()

async def meanwhile(endpoints):
    print("all started", flush=True)
    await asyncio.Event().wait()

def say(line):
    print(line, flush=True)

commands = {name: (sys.executable, "-c", STAND_IN, name) for name in sys.argv[2:]}
options = StackOptions(Path(sys.argv[1]), nats_port=0, postgres_port=0, redis_port=0, services=commands)
try:
    asyncio.run(up(options, prepare=prepare, meanwhile=meanwhile, say=say))
except RuntimeError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(2)
"""


@dataclass
class Up:
    """A running engine, and what it said so far."""

    process: asyncio.subprocess.Process
    data: Path
    said: list[str] = field(default_factory=list)

    async def hear(self, wanted: Callable[[str], bool]) -> str:
        """The next line that is wanted."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := (await self.process.stdout.readline()).decode().rstrip():
                self.said.append(line)
                if wanted(line):
                    return line
        raise AssertionError(f"not said: {self.said}")

    async def hear_ready(self, part: str) -> None:
        await self.hear(lambda line: line.split()[:2] == [part, "ready"])

    def endpoints(self) -> dict[str, str]:
        return json.loads((self.data / "endpoints.json").read_text())

    def family(self) -> dict[str, psutil.Process]:
        """Its children by the last part of their command, and theirs."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return {f"{(command_of(child) or ['?'])[-1]} {child.pid}": child for child in found}

    def child(self, word: str) -> psutil.Process:
        return next(
            child
            for child in psutil.Process(self.process.pid).children()
            if any(word in part for part in (*command_of(child)[:1], *command_of(child)[-1:]))
        )


def command_of(process: psutil.Process) -> list[str]:
    """Its command; empty for one that ended between being listed and being asked."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # and a zombie, which is one to psutil
        return []


@asynccontextmanager
async def running(data: Path, *services: str) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UP, str(data), *services, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(STAND_IN.encode())
    process.stdin.close()
    up = Up(process, data)
    try:
        yield up
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=20)
    return not alive
