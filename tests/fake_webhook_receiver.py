"""A receiver of webhooks over HTTP that checks signatures and remembers what it got; it can refuse, redirect and hang."""

import asyncio
import hmac
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

SECRET = "whsec_bm90IGEgcmVhbCBzZWNyZXQ="


@dataclass
class PlayedWebhook:
    """`got`: identity and body of each request it took. `tries`: identity of each request. `statuses`: answers before the 204s."""

    secret: str = SECRET
    statuses: list[int] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tries: list[str] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["PlayedWebhook"]:
        self.open.set()
        app = web.Application()
        app.add_routes([web.post("/hook", self._hook), web.post("/elsewhere", self._hook)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _hook(self, request: web.Request) -> web.Response:
        body, identity = await request.read(), request.headers["webhook-id"]
        self.tries.append(identity)
        await self.open.wait()
        if not self._signed(request, body):
            return web.Response(status=401)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Location": "/elsewhere"})
        self.got.append((identity, msgspec.json.decode(body)))
        return web.Response(status=204)

    def _signed(self, request: web.Request, body: bytes) -> bool:
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
        key = b64decode(self.secret.removeprefix("whsec_"))
        mine = "v1," + b64encode(hmac.new(key, signed, "sha256").digest()).decode()
        return mine in request.headers["webhook-signature"].split()
