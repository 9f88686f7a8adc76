"""A provider over HTTP that plays Tiingo's daily bars, tells its callers' keys apart, and answers each key as it is told to."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

ROW = {"date": "2026-01-02T00:00:00.000Z", "open": 99.5, "high": 101.0, "low": 99.0, "close": 100.0, "volume": 1000}
ADJUSTED = {f"adj{name.capitalize()}": value for name, value in ROW.items() if name != "date"}


@dataclass
class PlayedTiingo:
    """`calls` and `symbols` by key. `refusals`: status and body by key. `headers`: of every answer, by key."""

    calls: Counter[str] = field(default_factory=Counter)
    symbols: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict)
    url: str = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["PlayedTiingo"]:
        app = web.Application()
        app.add_routes([web.get("/tiingo/daily/{symbol}/prices", self._prices)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _prices(self, request: web.Request) -> web.Response:
        key = request.headers["Authorization"].removeprefix("Token ")
        self.calls[key] += 1
        self.symbols[key].add(request.match_info["symbol"])
        headers = self.headers.get(key, {})
        if key in self.refusals:
            status, body = self.refusals[key]
            return web.Response(status=status, text=body, headers=headers)
        return web.json_response([{**ROW, **ADJUSTED, "divCash": 0.0, "splitFactor": 1.0}], headers=headers)
