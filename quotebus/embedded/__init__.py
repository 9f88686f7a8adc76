"""Real NATS, PostgreSQL and Redis servers from PyPI wheels, each a child process with its data under a given folder."""

from quotebus.embedded.folder_lock import FolderInUseError, FolderLock
from quotebus.embedded.nats_server import NatsServer
from quotebus.embedded.ports import free_port, is_free
from quotebus.embedded.postgres_server import PostgresServer
from quotebus.embedded.process import ChildProcess, ServerError
from quotebus.embedded.redis_server import RedisServer
from quotebus.embedded.server import EmbeddedServer

__all__ = [
    "ChildProcess",
    "EmbeddedServer",
    "FolderInUseError",
    "FolderLock",
    "NatsServer",
    "PostgresServer",
    "RedisServer",
    "ServerError",
    "free_port",
    "is_free",
]
