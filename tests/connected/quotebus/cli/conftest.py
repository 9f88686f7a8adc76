"""Commands as a person types them, against real servers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quotebus import client
from quotebus.cli import run
from quotebus.client import Client


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of `-o ndjson`."""
        return [json.loads(line) for line in self.out.splitlines()]


CommandLine = Callable[..., Coroutine[None, None, Ended]]


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nats_url: str, postgres_url: str, redis_url: str) -> None:
    """Settings that name the tests' servers, in an empty folder; `synthetic` is the one provider that can be asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quotebus.toml").write_text("[providers.synthetic]\nenabled = true\n")
    monkeypatch.setenv("QUOTEBUS_NATS__URL", nats_url)
    monkeypatch.setenv("QUOTEBUS_POSTGRES__DSN", postgres_url)
    monkeypatch.setenv("QUOTEBUS_REDIS__URL", redis_url)


@pytest.fixture
def quotebus(servers: None, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs one command line of this process."""

    async def typed(*arguments: str) -> Ended:
        capsys.readouterr()
        # A command brings its own event loop, so it gets a thread.
        code = await asyncio.to_thread(run, arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return typed


@pytest.fixture
async def migrated(quotebus: CommandLine) -> None:
    """The servers have tables, streams and buckets."""
    ended = await quotebus("migrate")
    assert ended.code == 0, ended.err


@pytest.fixture
async def qb(migrated: None, nats_url: str) -> AsyncIterator[Client]:
    """A client of the migrated servers."""
    async with client.connect(nats_url) as connected:
        yield connected
