"""Requests, parsed and checked: path, query and body. Each fault is a problem that names the field."""

import asyncio
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from yarl import URL

from contracts.subjects import symbol_token
from services.gateway.errors import Problem, field_problem, invalid

_BODY_WITHIN_S = 15.0
_JSON = ("application/json", "application/merge-patch+json")
MOST_SYMBOLS_READ = 100
Instant = Annotated[str, msgspec.Meta(max_length=40, description="A day, or an instant with its zone.")]

Q = TypeVar("Q", bound=msgspec.Struct)


def parse_query(request: web.Request, kind: type[Q]) -> Q:
    """The query as this kind has it; parameters it does not know are errors.

    Raises:
        Problem: 400.
    """
    # Most requests are alike, and reading them anew costs more than answering.
    query: Q = _query(kind, request.rel_url.raw_query_string)
    return query


@lru_cache(maxsize=1024)
def _query(kind: type[Any], text: str) -> Any:
    given = URL.build(query_string=text, encoded=True).query
    if repeated := next((name for name in given if len(given.getall(name)) > 1), None):
        raise field_problem(400, repeated, "give it once")
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(400, str(error), kind.__struct_encode_fields__) from None


def symbol_of_path(request: web.Request) -> str:
    """The symbol that the path names, upper case.

    Raises:
        Problem: 400.
    """
    return checked_symbol(request.match_info["symbol"], "symbol")


def symbols_of(text: str, field: str = "symbols") -> list[str]:
    """Symbols with commas between, upper case, each once.

    Raises:
        Problem: 400.
    """
    symbols = list(dict.fromkeys(checked_symbol(symbol, field) for symbol in text.split(",") if symbol.strip()))
    if not 0 < len(symbols) <= MOST_SYMBOLS_READ:
        raise field_problem(400, field, f"{len(symbols)} symbols; give 1 to {MOST_SYMBOLS_READ}, with commas between")
    return symbols


@lru_cache(maxsize=4096)
def checked_symbol(text: str, field: str, status: int = 400) -> str:
    """The symbol as it is asked for: upper case, without blanks around it.

    Raises:
        Problem: it can be none.
    """
    symbol = text.strip().upper()
    try:
        symbol_token(symbol)
    except ValueError as error:
        raise field_problem(status, field, str(error)) from None
    if not symbol.isprintable():
        raise field_problem(status, field, f"{symbol!r} holds characters that cannot be printed")
    return symbol


def instant_of(field: str, text: str | None) -> datetime | None:
    """The instant that a text gives, or the beginning of the day in UTC.

    Raises:
        Problem: 400.
    """
    if text is None:
        return None
    try:
        if len(text) == len("2024-01-02"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise field_problem(400, field, f"{text!r} is no day or instant: 2024-01-02, or 2024-01-02T15:30:00Z") from None


async def read_body(request: web.Request) -> dict[str, Any]:
    """The JSON object of the body; an empty body is an empty object.

    Raises:
        Problem: 400, 408, 413 or 415.
    """
    try:
        async with asyncio.timeout(_BODY_WITHIN_S):
            body = await request.read()
    except TimeoutError:
        raise Problem(408, "too_slow", f"the body did not come within {_BODY_WITHIN_S:.0f} s", closes=True) from None
    except (web.RequestPayloadError, OSError) as error:
        what = f"the body did not come whole, or is not packed as Content-Encoding says: {str(error) or type(error).__name__}"
        raise Problem(400, "not_readable", what, closes=True) from None
    request["body"] = body
    if not body:
        return {}
    if request.content_type not in _JSON:
        what = f"Content-Type: {request.content_type!r}; send JSON, and say so: `Content-Type: application/json`"
        raise Problem(415, "not_json", what)
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise invalid(400, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "not_json", f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Problem(400, "not_json", "the body is nested too deep") from None


def parse_body(body: dict[str, Any], kind: type[Q]) -> Q:
    """The body as this kind has it.

    Raises:
        Problem: 422.
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise invalid(422, str(error), kind.__struct_fields__) from None


def expected_revision(request: web.Request) -> int | None:
    """The revision that `If-Match` demands; none when nothing is demanded, or any will do.

    Raises:
        Problem: 412, as no job ever has such a one.
    """
    value = request.headers.get("If-Match", "*").strip()
    if value == "*":
        return None
    digits = value.removeprefix("W/").strip('"').partition("-")[0]
    if not (digits.isascii() and digits.isdecimal()):
        raise Problem(412, "conflict", f"If-Match: {value[:80]!r} is no ETag of a job: take the one that GET gives")
    return int(digits)
