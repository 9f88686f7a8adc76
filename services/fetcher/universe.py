"""Which symbols a request means: the ones it names, and the ones of a universe kept in Postgres."""

from collections.abc import Sequence

import asyncpg

from contracts.refresh_request import RefreshRequest

WATCHLIST = "SELECT symbol FROM watchlist ORDER BY priority, symbol"


class UniverseUnavailableError(Exception):
    """The universe cannot be read now; the request waits."""


class Universe:
    """Reads universes. Connects when first asked, for most requests name their symbols."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def symbols(self, request: RefreshRequest) -> Sequence[str]:
        """The request's symbols, upper case, each once, in the order given; then the universe's by priority; no more than it wants.

        Raises:
            UniverseUnavailableError: Postgres does not answer.
        """
        named = [symbol.strip().upper() for symbol in request.symbols]
        listed = await self._watchlist() if request.universe == "watchlist" else []
        return list(dict.fromkeys([*named, *listed]))[: request.max_symbols]

    async def _watchlist(self) -> list[str]:
        try:
            connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=10)
            try:
                return [row["symbol"] for row in await connection.fetch(WATCHLIST)]
            finally:
                await connection.close(timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise UniverseUnavailableError(f"the watchlist cannot be read: {error or type(error).__name__}") from error
