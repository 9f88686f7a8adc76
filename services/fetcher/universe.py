"""Which symbols a request means: the ones it names, and the ones of a universe, which is a query over somebody's tables."""

from collections.abc import Mapping, Sequence

import asyncpg

from contracts.refresh_request import RefreshRequest
from services.runtime.postgres import POSTGRES_TROUBLE
from services.runtime.universe_settings import ACTIVE, WATCHLIST, UniverseSettings, unknown_universe

QUERIES = {
    WATCHLIST: """
SELECT symbol FROM (
    SELECT symbol, 1 AS rank, priority AS place FROM watchlist
    UNION ALL SELECT symbol, 2, ordinality::int FROM unnest($1::text[]) WITH ORDINALITY AS given (symbol, ordinality)
) AS found GROUP BY symbol ORDER BY min(rank), min(place), symbol
""",
    ACTIVE: """
SELECT symbol FROM (
    SELECT symbol, 1 AS rank, 0 AS place FROM holdings WHERE quantity > 0
    UNION ALL SELECT symbol, 2, 0 FROM transactions WHERE traded_at >= now() - make_interval(days => $2)
    UNION ALL SELECT symbol, 3, ordinality::int FROM unnest($1::text[]) WITH ORDINALITY AS given (symbol, ordinality)
    UNION ALL SELECT symbol, 4, priority FROM tickers WHERE is_active
) AS found GROUP BY symbol ORDER BY min(rank), min(place) FILTER (WHERE rank > 2), symbol
""",
}
# It would fail for ever: the query or the tables are not as they have to be. Anything else is the server's trouble and passes.
_FAULTY = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.DataError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.InvalidCatalogNameError,
)


class UniverseUnavailableError(Exception):
    """The universe cannot be read now; the request waits."""


class UniverseRefusedError(Exception):
    """There is no such universe, or its query cannot work; the text says what to do."""


class Universe:
    """Reads universes. Connects when first asked, for most requests name their symbols.

    `dsn`: of our own database. `settings`: what is set of each universe, by name.
    """

    def __init__(self, dsn: str, settings: Mapping[str, UniverseSettings]) -> None:
        self._dsn = dsn
        self._settings = settings

    async def symbols(self, request: RefreshRequest) -> Sequence[str]:
        """The request's symbols, upper case, each once, in the order given; then the universe's by priority; no more than it wants.

        Raises:
            UniverseUnavailableError: the database does not answer.
            UniverseRefusedError: there is no such universe, or its query is wrong.
        """
        named = [symbol.strip().upper() for symbol in request.symbols]
        listed = await self.of(request.universe) if request.universe else []
        return list(dict.fromkeys([*named, *listed]))[: request.max_symbols]

    async def of(self, name: str) -> list[str]:
        """The symbols of a universe, the most important first. Raises as `symbols` does."""
        settings = self._settings.get(name, UniverseSettings())
        query = settings.sql or QUERIES.get(name)
        if query is None:
            has_sql = [each for each, given in self._settings.items() if given.sql]
            raise UniverseRefusedError(unknown_universe(name, has_sql) or f"universe {name}: set universes.{name}.sql")
        try:
            found = await self._read(query, settings)
        except _FAULTY as error:
            raise UniverseRefusedError(f"universe {name}: {error}; {_what_to_do(name, error)}") from error
        except POSTGRES_TROUBLE as error:
            raise UniverseUnavailableError(f"universe {name} cannot be read: {error or type(error).__name__}") from error
        return [str(symbol).strip().upper() for symbol in found if symbol is not None and str(symbol).strip()]

    async def _read(self, query: str, settings: UniverseSettings) -> list[object]:
        limits = {"default_transaction_read_only": "on", "statement_timeout": str(int(settings.timeout_s * 1000))}
        dsn = settings.dsn.get_secret_value() if settings.dsn else self._dsn
        connection = await asyncpg.connect(dsn, timeout=5, command_timeout=settings.timeout_s + 5, server_settings=limits)
        try:
            statement = await connection.prepare(query)
            # A query takes as many of them as it has use for.
            parameters = [settings.pre_populate, settings.active_days][: len(statement.get_parameters())]
            return [row[0] for row in await statement.fetch(*parameters)]
        finally:
            await connection.close(timeout=2)


def _what_to_do(name: str, error: Exception) -> str:
    if isinstance(error, asyncpg.QueryCanceledError):
        return f"make it quicker, or raise universes.{name}.timeout_s"
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return f"run `quotebus migrate` for tables of ours, or set universes.{name}.sql for yours"
    return f"correct universes.{name}.sql"
