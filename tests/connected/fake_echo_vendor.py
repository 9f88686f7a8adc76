"""A provider over HTTP that plays Tiingo and Alpha Vantage and repeats the key it was given, wherever an answer has room for it.

What it does hangs on the symbol: `KEYDATA` is good data with the key in every text, the others fail in the way they are called.
"""

import base64
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from aiohttp import web

FAILING = ("KEY400", "KEY404", "KEY200", "KEYTEXT", "KEYPAGE", "KEY302", "KEY403", "KEY500")
RESTING = ("KEY429", "KEY401")
_SYMBOL = re.compile(r"key(\w+)", re.IGNORECASE)


def spelt(key: str) -> str:
    """The key in the ways in which programs repeat one."""
    encoded = [base64.b64encode(f"{before}{key}".encode()).decode() for before in ("", "u:", ":")]
    return " ".join([key, quote(key, safe=""), quote(key, safe="").lower(), key.replace("/", "\\/"), *encoded])


@dataclass
class Parrot:
    """`repeated`: how often it repeated a key, by symbol and where the key had come from."""

    repeated: Counter[tuple[str, str]] = field(default_factory=Counter)
    url: str = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Parrot"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        sent = request.headers.get("Authorization", "").removeprefix("Token ")
        key = sent or request.query.get("apikey", "")
        asked = request.query.get("symbol") or request.query.get("tickers") or request.path
        found = _SYMBOL.search(asked)
        what = f"KEY{found[1].upper()}" if found else asked
        self.repeated[what, "header" if sent else "query"] += bool(key)
        response = self._response(what, key, request)
        response.headers["X-Request"] = f"{request.path_qs} {quote(key, safe='')}"
        response.headers["Set-Cookie"] = f"session={base64.b64encode(key.encode()).decode()}"
        return response

    def _response(self, what: str, key: str, request: web.Request) -> web.Response:
        words = spelt(key)
        match what:
            case "KEYDATA":
                function = request.query.get("function", "")
                return web.json_response(_tables(words, key)[function] if function else _rows(words, key))
            case "KEY302":
                return web.Response(status=302, headers={"Location": f"{self.url}/login?token={quote(key, safe='')}"})
            case "KEYTEXT":
                return web.Response(text=f"Error: {words} was used for {request.path_qs}")
            case "KEYPAGE":
                return web.Response(text=f"<html><title>{words}</title></html>", content_type="text/html")
            case _:
                status = int(what[3:]) if what[3:].isdigit() else 404
                told = {"detail": f"Error: {words} may not do this", "Error Message": words, "message": words, key: [key]}
                return web.json_response(told, status=status, headers={"Retry-After": "600"} if status == 429 else {})


def _rows(words: str, key: str) -> list[dict[str, object]]:
    day = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT00:00:00.000Z")
    row = {
        "open": 10.0,
        "high": 12.0,
        "low": 9.0,
        "close": 11.0,
        "volume": 5,
        "tngoLast": 11.0,
        "prevClose": 10.0,
        "exchange": words,
    }
    return [{**row, "date": day, "ticker": "keydata", "timestamp": day, "currency": key, key: key}]


def _tables(words: str, key: str) -> dict[str, dict[str, object]]:
    day = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%d")
    bar = {"1. open": "10", "2. high": "12", "3. low": "9", "4. close": "11", "5. volume": "5", key: words}
    contract = {"contractID": f"A-{key}", "expiration": f"{datetime.now(UTC):%Y}-12-31", "strike": "20", "type": key, "last": "1.5"}
    return {
        "TIME_SERIES_DAILY": {
            "Meta Data": {"1. Information": words, "2. Symbol": key},
            "Time Series (Daily)": {day: bar, key: bar},
        },
        "TIME_SERIES_INTRADAY": {"Meta Data": {"6. Time Zone": words}, "Time Series (5min)": {f"{day} 10:00:00": bar}},
        "GLOBAL_QUOTE": {"Global Quote": {"01. symbol": key, "05. price": "11", "07. latest trading day": day, key: words}},
        "HISTORICAL_OPTIONS": {"endpoint": words, "message": "success", "data": [contract | {"date": day}]},
        "SPLITS": {"symbol": key, "data": [{"effective_date": key, "split_factor": words}]},
        "DIVIDENDS": {"symbol": key, "data": [{"ex_dividend_date": day, "amount": "0.5", "note": words}]},
    }
