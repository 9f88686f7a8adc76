"""Brings a database to the newest schema: SQL files in dbmate's format, each applied once, in order, by one process at a time."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

SCHEMA = Path(__file__).parent / "schema"
_LOCK = 0x71756F7465627573  # "quotebus" as a number
_MARKER = re.compile(r"^--\s*migrate:(up|down)\b(.*)$", re.MULTILINE)


class MigrationError(Exception):
    """A migration cannot be read or applied; the text names its file."""


@dataclass(frozen=True)
class Migration:
    """One file. `version` is the number its name begins with, and what `schema_migrations` remembers."""

    name: str
    version: str
    up: str
    in_transaction: bool


def migrations(folder: Path = SCHEMA) -> list[Migration]:
    """Every migration in order of its number."""
    found = [_read(path) for path in sorted(folder.glob("*.sql"))]
    versions = [migration.version for migration in found]
    if len(set(versions)) != len(versions):
        raise MigrationError(f"{folder}: two migrations have the same number: {', '.join(versions)}")
    return found


async def pending(dsn: str, folder: Path = SCHEMA) -> list[str]:
    """The names of the migrations that this database has not seen."""
    async with _connected(dsn) as connection:
        done = await _applied(connection)
    return [migration.name for migration in migrations(folder) if migration.version not in done]


async def migrate(dsn: str, folder: Path = SCHEMA) -> list[str]:
    """Apply what is pending and give its names. Whoever comes second waits, and then finds nothing left to do.

    Raises:
        MigrationError: a migration failed; it was rolled back, those before it stay.
    """
    applied = []
    async with _connected(dsn) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK, timeout=600)
        await connection.execute("CREATE TABLE IF NOT EXISTS schema_migrations (version varchar(128) PRIMARY KEY)")
        done = await _applied(connection)
        for migration in migrations(folder):
            if migration.version not in done:
                await _apply(connection, migration)
                applied.append(migration.name)
    return applied


def _read(path: Path) -> Migration:
    text = path.read_text(encoding="utf-8")
    version = re.match(r"\d+", path.name)
    markers = list(_MARKER.finditer(text))
    if version is None or not markers or markers[0][1] != "up":
        raise MigrationError(f"{path}: name it NNNN_what.sql and begin with a line `-- migrate:up`")
    end = markers[1].start() if len(markers) > 1 else len(text)
    return Migration(path.name, version[0], text[markers[0].end() : end], "transaction:false" not in markers[0][2])


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        if migration.in_transaction:
            async with connection.transaction():
                await connection.execute(migration.up)
                await _remember(connection, migration)
        else:
            await connection.execute(migration.up)
            await _remember(connection, migration)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.name}: {error}") from error


async def _remember(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute("INSERT INTO schema_migrations (version) VALUES ($1)", migration.version)


async def _applied(connection: asyncpg.Connection) -> set[str]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return set()
    return {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    # A connection of its own: closing it also lets go of the lock, whatever happened in between.
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)
