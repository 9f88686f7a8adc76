"""Routes of stored history: a series' bars, by page or as one download, and the coverage of its observations."""

import asyncio
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from contracts.message import Basis, Dataset, Text, Timeframe
from contracts.price_events import BAR_COLUMNS
from services.gateway.errors import Problem, field_problem
from services.gateway.read_postgres import EVER, BarsWanted, Row
from services.gateway.request import Instant, instant_of, parse_query, symbol_of_path, symbols_of
from services.gateway.response import document_response, json_response
from services.gateway.routing import Gateway, Route
from services.runtime.prices.document import column_type

_MEDIA = {"csv": "text/csv", "ndjson": "application/x-ndjson"}


class HistoryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`start` (inclusive) and `end` (exclusive): days or instants with a zone. `format`: csv and ndjson give all of it.

    `basis`, `feed`: one series where there are several; else the one that speaks for the symbol. `limit`: bars of a json page.
    """

    timeframe: Timeframe = "1d"
    start: Instant | None = None
    end: Instant | None = None
    basis: Basis | None = None
    feed: Text | None = None
    format: Literal["json", "csv", "ndjson"] = "json"
    limit: Annotated[int, msgspec.Meta(ge=1, le=50_000)] = 5_000


History = msgspec.defstruct(
    "History",
    [
        *((name, str) for name in ("symbol", "timeframe", "basis", "feed")),
        ("currency", str | None),
        ("at", list[datetime]),
        *((column.name, column_type(column)) for column in BAR_COLUMNS),
        ("final", list[bool]),
        ("provider", list[str]),
        ("next_start", datetime | None),
    ],
    namespace={"__doc__": "Bars in columns, oldest first. `next_start`: the `start` of the next page, null on the last one."},
    frozen=True,
)


class CoverageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`symbols`: up to 100, with commas between."""

    symbols: str
    dataset: Dataset | None = None
    timeframe: Timeframe | None = None


class SeriesCoverage(msgspec.Struct, frozen=True):
    """`observations`: answers seen, `empty` of them without a row. `covered`: from when to when somebody has been asked."""

    symbol: str
    dataset: str
    timeframe: str | None
    basis: str | None
    feed: str
    observations: int
    empty: int
    observed_at: datetime
    fetched_at: datetime
    covered: list[tuple[datetime | None, datetime | None]]


class Coverage(msgspec.Struct, frozen=True):
    series: list[SeriesCoverage]


class ReaderGoneError(Exception):
    """The client closed the connection during a download."""


async def get_history(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The bars of one series, oldest first."""
    symbol, query = symbol_of_path(request), parse_query(request, HistoryQuery)
    start, end = instant_of("start", query.start), instant_of("end", query.end)
    if start and end and start >= end:
        raise field_problem(400, "end", f"{query.end!r} is not after start, {query.start!r}: nothing lies between them")
    there = await gateway.store.series(symbol, query.timeframe)
    fitting = [each for each in there if query.basis in (None, each[0]) and query.feed in (None, each[1])]
    if not fitting:
        known = f"; there is {', '.join(map(' '.join, there))}" if there else ": POST /refresh asks for them"
        raise Problem(404, "not_found", f"no such {query.timeframe} bars of {symbol} are stored{known}")
    wanted = BarsWanted(symbol, query.timeframe, *fitting[0], start or EVER[0], end or EVER[1])
    if query.format == "json":
        return document_response(request, await gateway.store.page(wanted, query.limit))
    return await _download(gateway, request, wanted, query.format)


async def get_coverage(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Coverage of these symbols, by series: counts of observations, and the time ranges that they cover."""
    query = parse_query(request, CoverageQuery)
    rows = await gateway.store.coverage(symbols_of(query.symbols), query.dataset, query.timeframe)
    return json_response(request, Coverage([_coverage(row) for row in rows]))


async def _download(
    gateway: Gateway, request: web.Request, wanted: BarsWanted, form: Literal["csv", "ndjson"]
) -> web.StreamResponse:
    name = f"{wanted.symbol}_{wanted.timeframe}.{form}".encode("ascii", "replace").decode()
    headers = {
        "Content-Type": f"{_MEDIA[form]}; charset=utf-8",
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{"".join(c if c.isalnum() or c in "._-=^" else "_" for c in name)}"',
    }
    answer = web.StreamResponse(headers=headers)
    patience_s = gateway.settings.gateway.slow_client_s

    async def write(piece: bytes) -> None:
        try:
            if not answer.prepared:
                await answer.prepare(request)
            async with asyncio.timeout(patience_s):
                await answer.write(piece)
        except (OSError, TimeoutError) as error:
            raise ReaderGoneError from error

    try:
        await gateway.store.download(wanted, form, write)
        if not answer.prepared:
            await answer.prepare(request)
    except (ReaderGoneError, Problem):
        if not answer.prepared:
            raise
        # It has begun and cannot be unsaid: an end that is no end tells the reader that something is missing.
        if request.transport is not None:
            request.transport.abort()
    return answer


def _coverage(row: Row) -> SeriesCoverage:
    covered = list(zip(row["covered_from"], row["covered_to"], strict=True))
    # A dataset without timeframes, or basis, has an empty one there.
    return SeriesCoverage(
        symbol=row["symbol"],
        dataset=row["dataset"],
        timeframe=row["timeframe"] or None,
        basis=row["basis"] or None,
        feed=row["feed"],
        observations=row["observations"],
        empty=row["empty"],
        observed_at=row["observed_at"],
        fetched_at=row["fetched_at"],
        covered=covered,
    )


ROUTES = (
    Route(
        "GET", "/history/{symbol}", get_history, "Stored bars of a symbol.", "read", {200: History}, query=HistoryQuery,
        problems=(404,), media=("application/json", *_MEDIA.values()),
    ),
    Route("GET", "/coverage", get_coverage, "What was asked and seen of symbols.", "read", {200: Coverage}, query=CoverageQuery),
)  # fmt: skip
