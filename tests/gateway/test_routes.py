"""Routes are found by their folder, and the description of the API follows."""

import json
import re
from pathlib import Path

import pytest

from services.gateway import routes
from services.gateway.routes import all_routes
from services.gateway.routes.openapi import document

NEW_ROUTE = '''
from aiohttp import web

from services.gateway.routing import Gateway, Route


async def ping(_gateway: Gateway, _request: web.Request) -> web.StreamResponse:
    """Answers at once."""
    return web.Response(text="pong")


ROUTES = (Route("GET", "/ping", ping, "Answers at once.", "open", {200: None}),)
'''


def test_a_file_in_the_folder_is_a_route_that_is_served_and_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "zz_ping.py").write_text(NEW_ROUTE)
    monkeypatch.setattr(routes, "__path__", [*routes.__path__, str(tmp_path)])
    document.cache_clear()
    try:
        assert [route.path for route in all_routes()][-1] == "/ping"
        assert "/ping" in json.loads(document())["paths"]
    finally:
        document.cache_clear()


def test_every_file_of_the_folder_lists_its_routes():
    files = {file.stem for file in Path(str(routes.__file__)).parent.glob("*.py")} - {"__init__"}
    assert files == {route.handler.__module__.rpartition(".")[2] for route in all_routes()}


def test_no_two_routes_are_alike():
    listed = [(route.method, route.path) for route in all_routes()]
    assert len(listed) == len(set(listed))
    names = [route.name for route in all_routes()]
    assert len(names) == len(set(names))


def test_every_schema_that_the_description_names_is_in_it():
    described = document().decode()
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', described))
    assert named <= set(json.loads(described)["components"]["schemas"])


def test_what_is_not_part_of_the_api_is_not_described():
    paths = json.loads(document())["paths"]
    assert {"/", "/metrics", "/livez", "/readyz", "/openapi.json"}.isdisjoint(paths)
    assert {"/prices/{symbol}", "/history/{symbol}", "/scheduler/jobs"} <= set(paths)
