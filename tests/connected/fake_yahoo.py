"""A provider over HTTP that plays Yahoo's chart endpoint, counts its callers by its own clock, and can misbehave."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

DAY = 86_400
FIRST_SESSION = 1_767_364_200  # 2026-01-02 09:30 in New York


@dataclass
class PlayedYahoo:
    """`rows` daily bars for whatever symbol; `calls` are the instants of arrival (monotonic), `asked` the symbols."""

    rows: int = 20
    delay_s: float = 0.0
    dead: frozenset[str] = frozenset()
    calls: list[float] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""
    fault: web.Response | None = None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["PlayedYahoo"]:
        app = web.Application()
        app.add_routes([web.get("/v8/finance/chart/{symbol}", self._chart)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def most_in_any(self, window_s: float) -> int:
        """The most calls that arrived within one sliding window."""
        calls = sorted(self.calls)
        return max((sum(start <= other < start + window_s for other in calls[i:]) for i, start in enumerate(calls)), default=0)

    async def _chart(self, request: web.Request) -> web.Response:
        self.calls.append(time.monotonic())
        symbol = request.match_info["symbol"]
        self.asked[symbol] += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            return web.Response(status=self.fault.status, body=self.fault.body)
        if symbol in self.dead:
            error = {"code": "Not Found", "description": "nothing of that name"}
            return web.json_response({"chart": {"result": None, "error": error}}, status=404)
        return web.json_response(self._answer(symbol))

    def _answer(self, symbol: str) -> object:
        days = [FIRST_SESSION + i * DAY for i in range(self.rows)]
        closes = [100.0 + i for i in range(self.rows)]
        quote = {
            "open": [c - 0.5 for c in closes],
            "high": [c + 1 for c in closes],
            "low": [c - 1 for c in closes],
            "close": closes,
            "volume": [1_000 + i for i in range(self.rows)],
        }
        meta = {
            "currency": "USD",
            "symbol": symbol,
            "instrumentType": "EQUITY",
            "exchangeTimezoneName": "America/New_York",
            "gmtoffset": -18000,
            "dataGranularity": "1d",
        }
        indicators = {"quote": [quote], "adjclose": [{"adjclose": closes}]}
        return {"chart": {"result": [{"meta": meta, "timestamp": days, "indicators": indicators}], "error": None}}
