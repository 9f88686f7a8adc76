"""Health over HTTP: /livez says the event loop turns, /readyz that every part works, /metrics counts for Prometheus."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.runtime.logs import scrub
from services.runtime.settings import HealthSettings


@dataclass
class Health:
    """What each part of a service says of itself. A service is ready when all its parts are."""

    service: str
    parts: dict[str, tuple[bool, str]] = field(default_factory=dict)
    port: int = 0

    def ready(self, part: str, ok: bool, detail: str = "") -> None:
        """Set the state of one part. `detail` is told to whoever asks, so no secret stays in it."""
        self.parts[part] = (ok, scrub(detail))

    @property
    def ok(self) -> bool:
        """Whether every part that spoke is well, and at least one has."""
        return bool(self.parts) and all(ok for ok, _ in self.parts.values())

    def report(self) -> dict[str, object]:
        """The state as plain data: service, ready, and each part's `ok` or its trouble."""
        return {
            "service": self.service,
            "ready": self.ok,
            "parts": {part: "ok" if ok else detail or "not ready" for part, (ok, detail) in self.parts.items()},
        }

    @asynccontextmanager
    async def serve(self, settings: HealthSettings) -> AsyncIterator[None]:
        """Answer on the settings' host and port while the block runs; port 0 takes a free one, then found in `port`."""
        app = web.Application()
        app.add_routes([web.get("/livez", _live), web.get("/readyz", self._ready), web.get("/metrics", _metrics)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, reuse_address=True)
            await site.start()
            self.port = runner.addresses[0][1]
            yield
        finally:
            await runner.cleanup()

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.Response(body=json.dumps(self.report()), status=200 if self.ok else 503, content_type="application/json")


async def _live(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
