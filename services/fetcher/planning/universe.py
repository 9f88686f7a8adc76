"""Which symbols a request means: the ones it names, and the ones of a universe, which is a query over somebody's tables."""

import math
from collections.abc import Mapping, Sequence

import asyncpg

from contracts.refresh_request import RefreshRequest
from services.runtime.postgres import POSTGRES_UNAVAILABLE
from services.runtime.settings import ACTIVE, WATCHLIST, UniverseSettings, unknown_universe

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
# Classes of SQLSTATE that are the server's trouble and pass: connection, login, rollback, resources, locks, shutdown, disk.
_PASSING = ("08", "28", "40", "53", "55", "57", "58")
_PARAMETERS = 2
_ADDRESS = "give postgresql://USER:PASSWORD@HOST:PORT/NAME, signs such as / and @ of the password percent-encoded"


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
        listed = await self.named(request.universe) if request.universe else []
        return list(dict.fromkeys([*named, *listed]))[: request.max_symbols]

    async def named(self, name: str) -> list[str]:
        """The symbols of a universe, the most important first. Raises as `symbols` does."""
        settings = self._settings.get(name, UniverseSettings())
        query = settings.sql or QUERIES.get(name)
        if query is None:
            has_sql = [each for each, given in self._settings.items() if given.sql]
            raise UniverseRefusedError(unknown_universe(name, has_sql) or f"universe {name}: set universes.{name}.sql")
        try:
            found = await self._read(query, settings)
        except POSTGRES_UNAVAILABLE as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            if _passes(error):
                raise UniverseUnavailableError(f"universe {name} cannot be read: {why}") from error
            raise UniverseRefusedError(f"universe {name}: {why}; {_what_to_do(name, error)}") from error
        except _UnusableError as error:
            raise UniverseRefusedError(f"universe {name}: {error}; correct universes.{name}.sql") from error
        except _NoAddressError:
            setting = f"universes.{name}.dsn" if settings.dsn else "postgres.dsn"
            raise UniverseRefusedError(f"universe {name}: {setting} is no address of a PostgreSQL; {_ADDRESS}") from None
        return [str(symbol).strip().upper() for symbol in found if symbol is not None and str(symbol).strip()]

    async def _read(self, query: str, settings: UniverseSettings) -> list[object]:
        connection = await self._connect(settings)
        try:
            # Not by settings of the connection: poolers refuse those.
            async with connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = {math.ceil(settings.timeout_s * 1000)}")
                statement = await connection.prepare(query)
                wanted = len(statement.get_parameters())
                if wanted > _PARAMETERS:
                    raise _UnusableError(f"it takes {wanted} parameters; there are $1, pre_populate, and $2, active_days")
                # A query takes as many of them as it has use for.
                try:
                    rows = await statement.fetch(*[settings.pre_populate, settings.active_days][:wanted])
                except (ValueError, OverflowError) as error:
                    raise _UnusableError(f"a value that cannot be read: {error}") from error
                return _in_order(rows, [column.name for column in statement.get_attributes()])
        finally:
            await connection.close(timeout=2)

    async def _connect(self, settings: UniverseSettings) -> "asyncpg.Connection[asyncpg.Record]":
        dsn = settings.dsn.get_secret_value() if settings.dsn else self._dsn
        try:
            return await asyncpg.connect(dsn, timeout=5, command_timeout=settings.timeout_s + 5)
        except ValueError:
            # What is wrong with it is not repeated: it may be a part of the password.
            raise _NoAddressError from None


class _NoAddressError(Exception):
    """The address of the database is none."""


class _UnusableError(Exception):
    """The query works, and what it gives is of no use."""


def _in_order(rows: Sequence[asyncpg.Record], columns: Sequence[str]) -> list[object]:
    """The symbols: of the column of that name, else of the first; by `priority`, the lowest first, where there is such a column."""
    if not columns:
        raise _UnusableError("it gives no column")
    place = columns.index("symbol") if "symbol" in columns else 0
    if "priority" in columns:
        by = columns.index("priority")
        try:
            rows = sorted(rows, key=lambda row: (row[by] is None, 0 if row[by] is None else row[by]))
        except (TypeError, ArithmeticError):
            raise _UnusableError("its column priority holds what has no order; give numbers") from None
    return [row[place] for row in rows]


def _passes(error: Exception) -> bool:
    """True if the error is transient: the same query may succeed later."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return False
    state = getattr(error, "sqlstate", None)
    return not isinstance(state, str) or state.startswith(_PASSING)


def _what_to_do(name: str, error: Exception) -> str:
    if isinstance(error, asyncpg.QueryCanceledError):
        return f"make it quicker, or raise universes.{name}.timeout_s"
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return f"run `quotebus migrate` for tables of ours, or set universes.{name}.sql for yours"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return f"grant SELECT to the role of universes.{name}.dsn, or of postgres.dsn where that is not set"
    return f"correct universes.{name}.sql"
