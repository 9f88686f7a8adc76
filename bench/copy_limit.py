"""As fast as this PostgreSQL takes bars at all: a plain COPY, packed beforehand, of the rows that are stored anyway."""

import time
from pathlib import Path

import asyncpg


async def copy_limit(dsn: str, folder: Path) -> float:
    """Rows a second of a plain COPY of all daily bars into an empty table that is like theirs, constraints and key too."""
    connection = await asyncpg.connect(dsn)
    file = folder / "bars.copy"
    try:
        await connection.copy_from_query("SELECT * FROM bars_1d", output=file, format="binary")
        await connection.execute("CREATE TABLE copied (LIKE bars_1d INCLUDING ALL)")
        began = time.perf_counter()
        status = await connection.copy_to_table("copied", source=file, format="binary")
        took = time.perf_counter() - began
        await connection.execute("DROP TABLE copied")
    finally:
        await connection.close()
        file.unlink(missing_ok=True)
    return int(status.split()[-1]) / took
