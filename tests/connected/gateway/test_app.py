"""How a gateway begins: it is ready when it answers and no sooner, and says in one line why it cannot begin."""

import sys
from pathlib import Path

import pytest

from quotebus.embedded import ServerError, free_port
from quotebus.stack.supervisor import ServiceProcess
from tests.connected.gateway.gateway_harness import Http, with_gateways

# One that has everything it needs a second before it listens.
SLOW_TO_LISTEN = """
import asyncio
from services.gateway import app
from services.runtime.service import run_service

open_job_bucket = app.open_job_bucket


async def slowly(nc):
    await asyncio.sleep(1)
    return await open_job_bucket(nc)


app.open_job_bucket = slowly
run_service(app.SERVICE, app.build)
"""


async def test_a_gateway_is_ready_when_it_answers_and_no_sooner(tmp_path: Path) -> None:
    async with with_gateways(tmp_path, count=1) as (deployment, [http]):
        port = free_port()
        environment = deployment.environment | {"QUOTEBUS_GATEWAY__PORT": str(port)}
        service = ServiceProcess("slow", (sys.executable, "-c", SLOW_TO_LISTEN), tmp_path / "slow.log", environment)
        deployment.services["slow"] = service
        await service.start()
        assert (await Http(http.session, f"http://127.0.0.1:{port}").get("/livez")).status == 200


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "Address already in use"),
        ({"QUOTEBUS_GATEWAY__HOST": "192.0.2.1"}, "Cannot assign requested address"),
        ({"QUOTEBUS_GATEWAY__HOST": "no-such-host.invalid"}, ""),
    ],
)
async def test_where_it_cannot_listen_it_says_so_in_one_line(tmp_path: Path, more: dict[str, str], why: str) -> None:
    async with with_gateways(tmp_path) as (deployment, [http]):
        taken = http.url.rpartition(":")[2]
        with pytest.raises(ServerError, match=rf"ended with exit status 78: .*port {taken}: {why}.*of \[gateway\]"):
            await deployment.start("another", "gateway", QUOTEBUS_GATEWAY__PORT=taken, **more)
        assert "Traceback" not in deployment.log("another")
