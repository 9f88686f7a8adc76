"""PostgreSQL as services use it: a pool that may start before its server, and what to take for trouble that passes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg

from services.runtime.settings import PostgresSettings

# A connection that the server ends between two statements is an InternalClientError to whoever uses it next.
POSTGRES_TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


@asynccontextmanager
async def open_pool(settings: PostgresSettings, session: Mapping[str, str], connect_s: float = 5) -> AsyncIterator[asyncpg.Pool]:
    """Give a pool that connects when first used. `session`: the settings of each connection; `connect_s`: patience with one."""
    pool = asyncpg.create_pool(
        settings.dsn.get_secret_value(),
        min_size=0,
        max_size=settings.pool_size,
        timeout=connect_s,
        command_timeout=30,
        server_settings=dict(session),
    )
    async with pool:
        try:
            yield pool
        finally:
            # Closing would wait for a server that does not answer; nothing is under way that is not safe to lose.
            pool.terminate()
