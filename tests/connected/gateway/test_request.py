"""Bodies that do not arrive as they should: a problem for whoever still listens, and no fault of ours in the log."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.connected.deployment import Deployment, until
from tests.connected.gateway.gateway_harness import OPERATOR, Http, with_gateways

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Http]]:
    async with with_gateways(tmp_path_factory.mktemp("bodies")) as (deployment, [http]):
        yield deployment, http


async def test_a_packed_body_is_unpacked_and_no_larger_then_than_any_other(running: tuple[Deployment, Http]) -> None:
    _, http = running
    packed = {**JSON, "Content-Encoding": "gzip"}
    assert (await http.ask("POST", "/refresh", gzip.compress(b'{"symbols":["AAPL"]}'), packed)).status == 202
    bomb = await http.ask("POST", "/refresh", gzip.compress(b" " * 50_000_000), packed)
    assert (bomb.status, bomb.json["type"]) == (413, "urn:quotebus:too_large")


async def test_a_body_that_is_not_packed_as_it_says_is_a_problem_and_the_next_request_is_answered(
    running: tuple[Deployment, Http],
) -> None:
    deployment, http = running
    answer = await http.ask("POST", "/refresh", b'{"symbols":["AAPL"]}', {**JSON, "Content-Encoding": "gzip"})
    assert (answer.status, answer.json["type"]) == (400, "urn:quotebus:not_readable")
    assert "Content-Encoding" in answer.json["detail"]
    assert (await http.post("/refresh", {"symbols": ["AAPL"]})).status == 202
    assert "request_failed" not in deployment.log("gateway0")


@pytest.mark.parametrize("rest", ['Content-Length: 100\r\n\r\n{"symb', "Transfer-Encoding: chunked\r\n\r\nzz\r\n{"])
async def test_a_body_that_breaks_off_changes_nothing_and_is_no_fault_of_ours(running: tuple[Deployment, Http], rest: str) -> None:
    deployment, http = running
    before = audited(deployment)
    where = urlsplit(http.url)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST /refresh HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {OPERATOR}\r\nContent-Type: application/json\r\n"
    writer.write((head + rest).encode())
    await writer.drain()
    writer.close()

    async def told() -> bool:
        return audited(deployment) > before or "Invalid character in chunk size" in deployment.log("gateway0")

    await until(told)
    log = deployment.log("gateway0")
    assert '"status": 202' not in log.splitlines()[-1]
    assert "request_failed" not in log


def audited(deployment: Deployment) -> int:
    return deployment.log("gateway0").count('"event": "audit"')
