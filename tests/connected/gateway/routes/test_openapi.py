"""The OpenAPI document is a good one, and the running gateway keeps to it whatever it is sent."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import schemathesis

from services.gateway.routes import all_routes
from tests.cacher.events import bars, chain, quote, subject
from tests.connected.deployment import until
from tests.connected.gateway.gateway_harness import OPERATOR, Http, with_gateways

EIGHT = {
    ("post", "/scheduler/jobs"),
    ("get", "/scheduler/jobs"),
    ("get", "/scheduler/jobs/{id}"),
    ("put", "/scheduler/jobs/{id}"),
    ("delete", "/scheduler/jobs/{id}"),
    ("post", "/scheduler/jobs/{id}/start"),
    ("post", "/scheduler/jobs/{id}/stop"),
    ("get", "/scheduler/status"),
}


@pytest.fixture(scope="module")
async def http(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    """A gateway beside everything else, with a job, a run, and prices of AAPL."""
    async with with_gateways(tmp_path_factory.mktemp("schema"), ("scheduler", "fetcher", "cacher")) as (deployment, [http]):
        await http.post("/scheduler/jobs", {"id": "known", "symbols": ["AAPL"], "every_s": 3600})
        for event in (bars("AAPL"), quote("AAPL"), chain("AAPL")):
            await deployment.bus.publish(subject(event), event)
        await http.post("/refresh", {"symbols": ["AAPL"], "dataset": "quote"})

        async def known() -> bool:
            paths = "/runs/1", "/prices/AAPL", "/prices/AAPL?timeframe=1d", "/chains/AAPL", "/history/AAPL"
            return {(await http.get(path)).status for path in paths} == {200}

        await until(known)
        yield http


async def test_the_document_is_valid_and_describes_every_route(http: Http) -> None:
    document = (await http.get("/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(document).validate()
    described = {(method, path) for path, each in document["paths"].items() for method in each}
    assert described == {(route.method.lower(), route.path) for route in all_routes() if route.documented}
    assert described >= EIGHT


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "more"), [("schemathesis", ()), ("schemathesis_known", ("--exclude-method", "DELETE"))])
async def test_nothing_that_is_sent_makes_the_gateway_leave_its_document(
    http: Http, tmp_path: Path, settings: str, more: tuple[str, ...]
) -> None:
    # The stream has no end, and tests of its own.
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(Path(__file__).with_name(f"{settings}.toml")),
        "run", f"{http.url}/openapi.json", "--header", f"Authorization: Bearer {OPERATOR}", "--exclude-path", "/stream",
        "--seed", "1", "--no-color", *more,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
