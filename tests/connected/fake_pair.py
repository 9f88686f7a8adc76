"""Two providers of the same kind of series over HTTP, Tiingo and Alpha Vantage: either may fail while the other answers."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from services.runtime.settings import ProviderSettings, Secret

DAYS = [f"2026-01-{day:02d}" for day in (5, 6, 7, 8, 9)]
NO_LIMIT = {"per_second": 0, "per_minute": 0, "per_hour": 0, "per_day": 0}


@dataclass
class PlayedPair:
    """`faults`: by vendor the status of every answer; `missing` and `paid`: (vendor, symbol) not found, or only for a plan.

    `batches`: the tickers of each call for quotes.
    """

    faults: dict[str, int] = field(default_factory=dict)
    missing: set[tuple[str, str]] = field(default_factory=set)
    paid: set[tuple[str, str]] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    batches: list[list[str]] = field(default_factory=list)
    longest_address: int = 0
    url: str = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["PlayedPair"]:
        app = web.Application()
        app.add_routes([web.get("/tiingo/daily/{symbol}/prices", self._tiingo), web.get("/query", self._alpha_vantage)])
        app.add_routes([web.get("/iex/", self._tops)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def settings(self, **changes: object) -> ProviderSettings:
        """An account with one of them, without limits but those given."""
        return ProviderSettings(**{"base_url": self.url, "api_key": Secret("k"), **NO_LIMIT, **changes})

    def _trouble(self, vendor: str, symbol: str) -> web.Response | None:
        self.calls[vendor] += 1
        self.asked[vendor, symbol] += 1
        status = self.faults.get(vendor)
        return web.Response(status=status, text="no") if status else None

    async def _tiingo(self, request: web.Request) -> web.Response:
        symbol = request.match_info["symbol"]
        if trouble := self._trouble("tiingo", symbol):
            return trouble
        if ("tiingo", symbol) in self.missing:
            return web.json_response({"detail": f"Error: Ticker '{symbol}' not found"}, status=404)
        if ("tiingo", symbol) in self.paid:
            return web.json_response({"detail": "You do not have permission to this ticker"}, status=403)
        rows = [{"date": f"{day}T00:00:00.000Z", "open": 10, "high": 11, "low": 9, "close": 10, "volume": 5} for day in DAYS]
        return web.json_response(rows)

    async def _tops(self, request: web.Request) -> web.Response:
        tickers = request.query["tickers"].split(",")
        self.batches.append(tickers)
        self.longest_address = max(self.longest_address, len(request.raw_path))
        if trouble := self._trouble("tiingo", "quotes"):
            return trouble
        return web.json_response([{"ticker": each, "timestamp": "2026-01-09T21:00:00Z", "tngoLast": 10.0} for each in tickers])

    async def _alpha_vantage(self, request: web.Request) -> web.Response:
        symbol = request.query["symbol"]
        if trouble := self._trouble("alpha_vantage", symbol):
            return trouble
        if ("alpha_vantage", symbol) in self.missing:
            return web.json_response({"Error Message": "Invalid API call."})
        row = {"1. open": "10", "2. high": "11", "3. low": "9", "4. close": "10", "5. volume": "5"}
        meta = {"2. Symbol": symbol, "5. Time Zone": "US/Eastern"}
        return web.json_response({"Meta Data": meta, "Time Series (Daily)": dict.fromkeys(DAYS, row)})
