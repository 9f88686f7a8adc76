"""A service's own command of compose.yaml, in compose's own environment, without a container around it."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from quotebus.embedded import free_port
from quotebus.embedded.child_setup import OsUser, capability_to_pass_closed_folders, die_with_parent
from quotebus.embedded.postgres_account import may_pass
from tests.compose.composed import ROOT, command, compose_file, health_command, image_environment

# Stands in for the read-only file system: a process that writes anywhere but into a device ends at once.
READ_ONLY = """
import os, sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {f"os.{name}" for name in ("mkdir", "remove", "rename", "rmdir", "symlink", "truncate", "chmod")}

def watch(event, args):
    wrote = event in CHANGES or event == "open" and isinstance(args[0], (str, bytes)) and args[2] & WRITES
    if wrote and not os.fsdecode(args[0]).startswith("/dev/"):
        os.write(2, f"read-only file system: {event} {args[0]}\\n".encode())
        os._exit(99)

sys.addaudithook(watch)
"""


class ComposedService:
    """One service. `secrets`: what its secret files hold, by name. `changes`: texts of its environment that are other here."""

    def __init__(self, name: str, folder: Path, secrets: Mapping[str, str], changes: Mapping[str, str]) -> None:
        loaded = compose_file()
        self._service: dict[str, Any] = loaded["services"][name]
        self._folder = folder / name
        self._log = folder / f"{name}.log"
        mounted, empty, guard = (self._folder / each for each in ("secrets", "empty", "guard"))
        for each in (mounted, empty, guard):
            each.mkdir(parents=True)
        for secret in self._service["secrets"]:
            (mounted / secret).write_text(secrets[secret])
        (guard / "sitecustomize.py").write_text(READ_ONLY)
        (config,) = self._service["configs"]
        self.http_port = free_port()
        here = {
            "/run/secrets": str(mounted),
            config["target"]: str(ROOT / loaded["configs"][config["source"]]["file"]),
            "8080": str(free_port()),
            "8088": str(self.http_port),
            **changes,
        }
        environment = {name: here.get(value, value) for name, value in self._service["environment"].items()}
        scripts = Path(sys.executable).parent
        self._environment = {
            "PATH": f"{scripts}:{os.defpath}",
            "HOME": "/nonexistent",
            "PYTHONPATH": str(guard),
            **image_environment(),
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    @property
    def grace_s(self) -> float:
        """How long it has to end."""
        return float(self._service["stop_grace_period"].removesuffix("s"))

    @property
    def user(self) -> int:
        """Whose process it is."""
        assert self._process is not None
        return psutil.Process(self._process.pid).uids().real

    async def start(self, *words: str) -> None:
        """Start its own command, or another one in its place."""
        self._process = await self._run(list(words) or command(self._service))

    async def run(self, *words: str) -> int:
        """Start it and wait for its end; its exit status."""
        await self.start(*words)
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), 60)

    async def healthy(self) -> bool:
        """Whether its own health check says so."""
        check = self._service["healthcheck"]
        process = await self._run(health_command(self._service))
        return await asyncio.wait_for(process.wait(), float(check["timeout"].removesuffix("s"))) == 0

    async def stop(self) -> int:
        """End it as a container is ended; its exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), self.grace_s)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _run(self, words: list[str]) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *words,
                cwd=self._folder / "empty",
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._birth(),
            )

    def _birth(self) -> Callable[[], None]:
        """As the container's user where we may become another one, and never longer than the test."""
        account = OsUser(*map(int, self._service["user"].split(":")))
        # What the test runs may lie in closed folders, which no container has.
        capability = capability_to_pass_closed_folders()
        able = os.geteuid() == 0 and (capability is not None or may_pass(account, Path(sys.executable).resolve()))
        return die_with_parent(signal.SIGKILL, account if able else None, capability if able else None)
