"""The OpenAPI 3.1 document, made of the table of routes and of the types that they answer with."""

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.errors import PROBLEM_TYPE, ProblemDocument
from services.gateway.response import document_response
from services.gateway.routes import all_routes, all_schemas
from services.gateway.routes.jobs import READ_ONLY
from services.gateway.routing import Gateway, Route

_REF = "#/components/schemas/{name}"
_INSTANT = {"type": "string", "format": "date-time"}
_HEADERS = {
    "If-Match": "The ETag of the job: the change is made only if it is still that one, else 412.",
    "If-None-Match": "The ETag of what the reader has: 304 if it still holds.",
    "Idempotency-Key": "Of a request that is sent again: within two minutes it is asked for once.",
    "Last-Event-ID": "The number of the last event that came: the next one is the first after it.",
}
_PROBLEMS = {
    400: "A parameter, or the body, is wrong.",
    401: "A token is needed, or there is no such token.",
    403: "Not with this token, or not from there.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "It cannot be done as things stand.",
    412: "Somebody else has changed it.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    422: "A field holds what it may not.",
    503: "NATS or PostgreSQL does not answer; try again.",
}


SCHEMAS = (ProblemDocument,)


async def openapi(_gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """The API's description, in OpenAPI 3.1."""
    return document_response(request, document())


@cache
def document() -> bytes:
    """The document of every documented route, as JSON."""
    routes = [route for route in all_routes() if route.documented]
    kinds = {kind for route in routes for kind in (*route.answers.values(), route.query) if isinstance(kind, type)}
    ordered = sorted({*kinds, *all_schemas()}, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_REF)
    _add_schemas(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    for query in (route.query for route in routes):
        schemas.pop(query.__name__ if query else "", None)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "quotebus",
                "version": version("quotebus"),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": paths,
            "components": {"schemas": _tidied(schemas), "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        }
    )


def _add_schemas(schemas: dict[str, Any]) -> None:
    """Those that no type has: a job as it is shown, and as it may be sent."""
    job = schemas["Job"]
    shown = {"revision": {"type": "integer"}, "next_at": {"anyOf": [_INSTANT, {"type": "null"}]}}
    shown["cost"] = {"description": "When it is made or defined anew.", "anyOf": [_ref("JobCost"), {"type": "null"}]}
    shown["too_small"] = {"description": "Limits without room for all jobs.", "type": "array", "items": _ref("LimitUse")}
    view = {**job["properties"], **shown}
    schemas["JobView"] = {**job, "title": "JobView", "properties": view, "required": [*view]}
    symbol = {"type": "string", "minLength": 1, "maxLength": 64}
    time = job["properties"]["at"]["items"]
    sent = {name: each for name, each in job["properties"].items() if name not in READ_ONLY}
    sent |= {name: {"description": "Read only: ignored."} for name in sorted(READ_ONLY)}
    sent["name"] = {"type": "string", "description": "In short, instead of `id`: it is made of this."}
    sent["stock_ids"] = {"type": "array", "items": symbol, "description": "In short, instead of `symbols`."}
    sent["schedule_time"] = {"anyOf": [time, {"type": "array", "items": time}], "description": "In short, instead of `at`."}
    form = {"title": "JobForm", "type": "object", "properties": sent, "additionalProperties": False}
    schemas["JobForm"] = {**form, "description": "A job; `name`, `stock_ids` and `schedule_time` are enough."}
    del schemas["Job"]
    schemas["JobList"]["properties"]["jobs"]["items"] = _ref("JobView")
    schemas["PriceDocument"] = {"title": "PriceDocument", "anyOf": [_ref("QuoteDocument"), _ref("BarsDocument")]}
    one = {
        "symbol": symbol,
        "source": {"enum": ["redis", "postgres"]},
        "stale": {"type": "boolean"},
        "refresh": {"type": "boolean"},
    }
    one["document"] = _ref("PriceDocument")
    schemas["PriceList"]["properties"]["prices"]["items"] = {"type": "object", "properties": one, "required": [*one]}


def _operation(route: Route, schemas: Mapping[str, Any]) -> dict[str, Any]:
    notes = [inspect.getdoc(route.handler) or "", inspect.getdoc(route.query) or "" if route.query else ""]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": "\n\n".join(filter(None, notes)),
        "parameters": [*_parameters(route, schemas)],
        "responses": dict([*_answers(route), *_problems(route)]),
        "security": [{"bearer": []}] if route.scope == "operate" else [{}, {"bearer": []}],
    }
    if route.body:
        operation["requestBody"] = {"content": {"application/json": {"schema": _ref(route.body)}}}
    return operation


def _parameters(route: Route, schemas: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", route.path):
        pattern = {"minLength": 1, "maxLength": 64}
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", **pattern}}
    if route.query is not None:
        query = schemas[route.query.__name__]
        for name, schema in query["properties"].items():
            yield {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": schema}
    for name in (*route.headers, *(["If-None-Match"] if route.method == "GET" and "If-Match" not in route.headers else [])):
        yield {"name": name, "in": "header", "description": _HEADERS[name], "schema": {"type": "string"}}


def _answers(route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
    for status, kind in route.answers.items():
        answer: dict[str, Any] = {"description": route.summary}
        if kind is not None:
            name = kind if isinstance(kind, str) else kind.__name__
            answer["content"] = {media: {"schema": _ref(name)} if media == "application/json" else {} for media in route.media}
        elif status != 204:
            answer["content"] = {media: {} for media in route.media}
        yield str(status), answer
    if route.method == "GET":
        yield "304", {"description": "What the reader has still holds."}


def _problems(route: Route) -> Iterator[tuple[str, dict[str, Any]]]:
    for status in sorted({400, 401, 403, 503, *route.problems, *((408, 413, 415) if route.body else ())}):
        yield str(status), {"description": _PROBLEMS[status], "content": {PROBLEM_TYPE: {"schema": _ref("ProblemDocument")}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _tidied(schemas: dict[str, Any]) -> dict[str, Any]:
    """Descriptions without the indentation that they have in the source."""
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return dict(sorted(schemas.items()))


ROUTES = (Route("GET", "/openapi.json", openapi, "The API's description.", "open", {200: None}, documented=False),)
