"""What asyncpg raises when the trouble is Postgres's or the way there, and passes."""

import asyncpg

# A connection that the server ends between two statements is an InternalClientError to whoever uses it next.
POSTGRES_TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
