"""NATS and Redis as compose.yaml configures them, on free ports, and PostgreSQL as its first start leaves it."""

import asyncio
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from quotebus.embedded import NatsServer, PostgresServer, RedisServer, free_port
from quotebus.embedded.nats_server import nats_server_program
from quotebus.embedded.postgres_server import postgres_programs
from quotebus.embedded.redis_server import redis_server_program
from tests.compose.composed import ROOT

# The tests' PostgreSQL has a role `quotebus` already, and this is no other server.
ROLE = "quotebus_composed"


class ComposedNats(NatsServer):
    """By compose/nats.conf. `secrets`: the folder that stands for /run/secrets."""

    def __init__(self, folder: Path, secrets: Path) -> None:
        super().__init__(folder)
        self._secrets = secrets
        self._monitoring = free_port()

    def _command(self) -> list[str]:
        text = _changed(
            (ROOT / "compose/nats.conf").read_text(),
            {
                "0.0.0.0:4222": f"127.0.0.1:{self.port}",
                "127.0.0.1:8222": f"127.0.0.1:{self._monitoring}",
                '"/data"': f'"{self.data}"',
                "../../run/secrets": os.path.relpath(self._secrets, self.data),
            },
        )
        file = self.data / "nats-server.conf"
        file.write_text(text)
        return [nats_server_program(), "--config", str(file)]

    @property
    def health(self) -> str:
        """Where its health check asks."""
        return f"http://127.0.0.1:{self._monitoring}/healthz?js-enabled-only=true"


class ComposedRedis(RedisServer):
    """By compose/redis.conf."""

    def __init__(self, folder: Path, secrets: Path) -> None:
        super().__init__(folder)
        self._secrets = secrets

    def _command(self) -> list[str]:
        changes = {"port 6379": f"port {self.port}", "/run/secrets": str(self._secrets)}
        file = self.data / "redis.conf"
        file.write_text(_changed((ROOT / "compose/redis.conf").read_text(), changes) + "bind 127.0.0.1\n")
        return [redis_server_program(), str(file)]


async def first_start(server: PostgresServer, secrets: Path) -> None:
    """Do on the tests' server what the image does on an empty volume."""
    text = _other_role((ROOT / "compose/postgres_init.sql").read_text())
    text = _changed(text, {"/run/secrets": str(secrets)})
    psql = [str(postgres_programs() / "psql"), "--set=ON_ERROR_STOP=1", "--no-psqlrc", "--no-password", server.url]
    # The image's role is a superuser; this one has to be given the right to act as those that it makes.
    environment = {**os.environ, "PGOPTIONS": "-c createrole_self_grant=set,inherit"}
    process = await asyncio.create_subprocess_exec(
        *psql, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, env=environment
    )
    await process.communicate(text.encode())
    assert process.returncode == 0


def postgres_dsn(server: PostgresServer, dsn: str) -> str:
    """The DSN of a secret file, with the tests' server and the role of `first_start` in it."""
    return _changed(_other_role(dsn), {"@postgres:5432": f"@{urlsplit(server.url).netloc.split('@')[1]}"})


def _other_role(text: str) -> str:
    return re.sub(r"\bquotebus", ROLE, text)


def _changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text
