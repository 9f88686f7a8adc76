"""Gateways of a deployment, and one who asks them over HTTP."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from quotebus.embedded import free_port
from tests.connected.deployment import Deployment, deployed

OPERATOR, READER = "token-of-ann", "token-of-bob"
TOKENS = {
    "QUOTEBUS_GATEWAY__TOKENS__ANN__SHA256": hashlib.sha256(OPERATOR.encode()).hexdigest(),
    "QUOTEBUS_GATEWAY__TOKENS__BOB__SHA256": hashlib.sha256(READER.encode()).hexdigest(),
    "QUOTEBUS_GATEWAY__TOKENS__BOB__SCOPES": '["read"]',
}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def fields(self) -> list[str]:
        """The fields that a problem names."""
        return [each["field"] for each in self.json.get("errors", [])]


class Http:
    """Somebody with a token, who asks one gateway."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None = OPERATOR) -> None:
        self.session = session
        self.url = url
        self.token = token

    def headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(more or {})}

    async def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        """`body`: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if data is not None else {}
        # What is escaped in the path stays so.
        where = URL(f"{self.url}{path}", encoded=True)
        async with self.session.request(method, where, data=data, headers=self.headers({**kind, **(headers or {})})) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return await self.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})


@asynccontextmanager
async def with_gateways(
    folder: Path, services: tuple[str, ...] = (), count: int = 1, **settings: str
) -> AsyncIterator[tuple[Deployment, list[Http]]]:
    """A deployment with so many gateways, and one who asks each. `settings`: of [gateway], by name."""
    environment = TOKENS | {f"QUOTEBUS_GATEWAY__{name.upper()}": value for name, value in settings.items()}
    environment["QUOTEBUS_PROVIDERS__SYNTHETIC__ENABLED"] = "true"
    async with deployed(folder, services, environment) as deployment, aiohttp.ClientSession() as session:
        asking = []
        for number in range(count):
            port = free_port()
            service = await deployment.start(f"gateway{number}", "gateway", QUOTEBUS_GATEWAY__PORT=str(port))
            assert service.running
            asking.append(Http(session, f"http://127.0.0.1:{port}"))
        yield deployment, asking
