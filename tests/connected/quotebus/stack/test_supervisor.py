"""The environment of the services that `quotebus up` really starts: each has the secrets it uses, and no other."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from services.runtime.settings.secret_scope import SECRETS_USED

UP = (sys.executable, "-c", "from quotebus.cli import main; main()", "up", "--data", "data")
ANY_PORT = ("--port", "0", "--nats-port", "0", "--postgres-port", "0", "--redis-port", "0")
SECRETS = {
    "QUOTEBUS_PROVIDERS__TIINGO__API_KEY": "canary-provider",
    "QUOTEBUS_GATEWAY__TOKENS__ANN__SHA256": "c" * 64,
    "QUOTEBUS_NOTIFY": '[{"id": "ops", "url": "https://127.0.0.1:9/", "secret": "canary-notify"}]',
}
USERS = {
    "canary-provider": {"fetcher"},
    "postgresql://": {"fetcher", "cacher", "gateway"},
    "redis://": {"cacher", "gateway"},
    "c" * 64: {"gateway"},
    "canary-notify": {"notifier"},
    "nats://": set(SECRETS_USED),
}


@asynccontextmanager
async def up(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`quotebus up` with every kind of secret."""
    process = await asyncio.create_subprocess_exec(
        *UP, *ANY_PORT, cwd=folder, env={**os.environ, **SECRETS}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


def environments(pid: int) -> dict[str, str]:
    """What each service was started with, as the operating system has it."""
    found = {}
    for child in psutil.Process(pid).children():
        if (module := child.cmdline()[-1]).startswith("services."):
            found[module.removeprefix("services.")] = (Path("/proc") / str(child.pid) / "environ").read_text()
    return found


async def test_no_service_of_quotebus_up_has_a_secret_that_it_does_not_use(tmp_path: Path) -> None:
    async with up(tmp_path) as process, asyncio.timeout(120):
        endpoints = tmp_path / "data" / "endpoints.json"
        while not endpoints.exists():
            assert process.returncode is None
            await asyncio.sleep(0.1)
        assert set(json.loads(endpoints.read_text())["health"]) == set(SECRETS_USED)
        found = environments(process.pid)
    assert found.keys() == SECRETS_USED.keys()
    for secret, users in USERS.items():
        assert {service for service, environment in found.items() if secret in environment} == users, secret
