"""Health over HTTP: /livez says the event loop turns, /readyz that every part works, /metrics counts for Prometheus.

Three pages that anybody may GET are all there is, so this is answered without a web framework: one would be the largest part of
what the clock keeps in memory.
"""

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.runtime.logs import redact
from services.runtime.settings import HealthSettings

STATUS_ASK = "status.ask"
_PATIENCE_S = 5.0


@dataclass
class Health:
    """Health of a service by its parts. A service is ready when all its parts are."""

    service: str
    parts: dict[str, tuple[bool, str]] = field(default_factory=dict)
    port: int = 0

    def ready(self, part: str, ok: bool, detail: str = "") -> None:
        """Set the state of one part. `detail` is told to whoever asks, so no secret stays in it."""
        self.parts[part] = (ok, redact(detail))

    @property
    def ok(self) -> bool:
        """True if every part that reported is ready, and at least one has reported."""
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
        server = await asyncio.start_server(self._answer, settings.host, settings.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        # Whoever sends nothing, or no HTTP, or goes away is not waited for.
        with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
                status, kind, body = self._page(method, target.partition("?")[0])
                terms = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
                writer.write(f"HTTP/1.1 {status} {status.phrase}\r\n{terms}\r\n\r\n".encode())
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
        writer.close()

    def _page(self, method: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"only GET\n"
        if path == "/livez":
            return HTTPStatus.OK, "text/plain", b"ok\n"
        if path == "/readyz":
            status = HTTPStatus.OK if self.ok else HTTPStatus.SERVICE_UNAVAILABLE
            return status, "application/json", json.dumps(self.report()).encode()
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest()
        return HTTPStatus.NOT_FOUND, "text/plain", b"there are /livez, /readyz and /metrics\n"
