"""The newest prices: whence they come, how old they are, and whether fresh ones are under way."""

import asyncio
import time
from typing import Any

import msgspec
from aiohttp import web

from contracts.message import Timeframe
from services.gateway.errors import Problem
from services.gateway.metrics import SERVED
from services.gateway.price_reader import CachedDocument, Kind
from services.gateway.request import parse_query, symbol_of_path, symbols_of
from services.gateway.response import document_response
from services.gateway.routing import Gateway, Route
from services.runtime.prices.document import DOCUMENTS, BarsDocument, WrittenBars
from services.runtime.prices.read_postgres import DOCUMENT_READERS

SOURCE, STALE, REFRESH = "Quotebus-Source", "Quotebus-Stale", "Quotebus-Refresh"
# Without a timeframe the quote is meant, or of what is never quoted its daily bars.
_NEWEST: tuple[Kind, ...] = ("quote", "1d")


class PriceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`timeframe`: its newest bars; without one the quote, or of what is never quoted its daily bars."""

    timeframe: Timeframe | None = None


class PricesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`symbols`: up to 100, with commas between."""

    symbols: str
    timeframe: Timeframe | None = None


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameter."""


class PriceList(msgspec.Struct, frozen=True):
    """`prices`: of each symbol its document, the `source` of it, whether it is `stale`, and whether a `refresh` is under way."""

    prices: list[Any]
    missing: list[str]


async def get_price(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The newest document of one symbol, as it is stored."""
    symbol = symbol_of_path(request)
    timeframe = parse_query(request, PriceQuery).timeframe
    return await _document(gateway, request, symbol, (timeframe,) if timeframe else _NEWEST)


async def get_chain(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The newest option chain of one underlying, as it is stored."""
    parse_query(request, NoQuery)
    return await _document(gateway, request, symbol_of_path(request), ("chain",))


async def get_volatility(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The newest implied volatility of one underlying, as it is stored."""
    parse_query(request, NoQuery)
    return await _document(gateway, request, symbol_of_path(request), ("iv",))


async def list_prices(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The newest documents of several symbols; those that are not known are named."""
    query = parse_query(request, PricesQuery)
    kinds: tuple[Kind, ...] = (query.timeframe,) if query.timeframe else _NEWEST
    shown, missing, now = [], [], time.time()
    symbols = symbols_of(query.symbols)
    all_found = await asyncio.gather(*(_find(gateway, symbol, kinds) for symbol in symbols))
    for symbol, (kind, found) in zip(symbols, all_found, strict=True):
        if found is None:
            missing.append(symbol)
            continue
        SERVED.prices[found.source] += 1
        stale = found.stale(now)
        refresh = stale and gateway.stale.note(kind, symbol)
        head = msgspec.json.encode({"symbol": symbol, "source": found.source, "stale": stale, "refresh": refresh})
        shown.append(head[:-1] + b',"document":' + found.body + b"}")
    body = b'{"prices":[' + b",".join(shown) + b'],"missing":' + msgspec.json.encode(missing) + b"}"
    return document_response(request, body)


async def _document(gateway: Gateway, request: web.Request, symbol: str, kinds: tuple[Kind, ...]) -> web.Response:
    kind, found = await _find(gateway, symbol, kinds)
    if found is None:
        what = "quote and no 1d bars" if kinds is _NEWEST else kind if kind in DOCUMENT_READERS else f"{kind} bars"
        raise Problem(404, "not_found", f"no {what} of {symbol} in store: POST /refresh asks for it")
    SERVED.prices[found.source] += 1
    now = time.time()
    headers = {SOURCE: found.source, STALE: "false", "Age": str(int(found.age_s(now)))}
    if found.stale(now):
        under_way = gateway.stale.note(kind, symbol)
        headers |= {STALE: "true", REFRESH: "under-way" if under_way else "not-asked"}
    return document_response(request, found.body, etag=found.etag, headers=headers)


async def _find(gateway: Gateway, symbol: str, kinds: tuple[Kind, ...]) -> tuple[Kind, CachedDocument | None]:
    for kind in kinds:
        if (found := await gateway.prices.find(kind, symbol)) is not None:
            return kind, found
    return kinds[0], None


SCHEMAS = (PriceList, *(WrittenBars if kind is BarsDocument else kind for kind in DOCUMENTS.values()))
ROUTES = (
    Route("GET", "/prices", list_prices, "The newest prices of several symbols.", "read", {200: PriceList}, query=PricesQuery),
    Route(
        "GET", "/prices/{symbol}", get_price, "The newest price of a symbol, or its newest bars.", "read", {200: "PriceDocument"},
        query=PriceQuery, problems=(404,),
    ),
    Route(
        "GET", "/chains/{symbol}", get_chain, "The newest option chain of a symbol.", "read", {200: "ChainDocument"},
        query=NoQuery, problems=(404,),
    ),
    Route(
        "GET", "/iv/{symbol}", get_volatility, "The newest implied volatility of a symbol's options.", "read", {200: "IvDocument"},
        query=NoQuery, problems=(404,),
    ),
)  # fmt: skip
