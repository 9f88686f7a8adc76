"""A provider on this machine that answers as Yahoo and Tiingo do, as quickly as it can: `python -m bench.vendor PORT BARS`.

Symbols that begin with DEAD are not found. The bars are Yahoo's, the quotes Tiingo's, of many symbols a call. `/arrivals` gives
when its calls for bars came, in seconds of its own clock.
"""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from subprocess import Popen
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen
from zoneinfo import ZoneInfo

import uvloop
from aiohttp import web

from quotebus.embedded import free_port

MARKETS = 32  # so many different histories; symbols share them
NEW_YORK = ZoneInfo("America/New_York")
LAST_SESSION = date(2026, 10, 30)
NOT_FOUND = {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found, symbol may be delisted"}}}


def bodies(bars: int) -> list[bytes]:
    """Answers with `bars` daily bars each, SYMBOL standing for the symbol."""
    days = [LAST_SESSION - timedelta(days=back) for back in range(bars * 7 // 5 + 7)]
    sessions = sorted(day for day in days if day.weekday() < 5)[-bars:]
    opens = [int(datetime.combine(day, time(9, 30), NEW_YORK).timestamp()) for day in sessions]
    return [_body(opens, random.Random(seed)) for seed in range(MARKETS)]


def _body(opens: list[int], chance: random.Random) -> bytes:
    closes = [100.0]
    while len(closes) < len(opens):
        closes.append(round(closes[-1] * chance.uniform(0.98, 1.02), 4))
    quote = {
        "open": [round(close * 0.997, 4) for close in closes],
        "high": [round(close * 1.01, 4) for close in closes],
        "low": [round(close * 0.99, 4) for close in closes],
        "close": closes,
        "volume": [chance.randrange(1_000_000, 90_000_000) for _ in closes],
    }
    meta = {"currency": "USD", "symbol": "SYMBOL", "instrumentType": "EQUITY", "exchangeTimezoneName": "America/New_York"}
    indicators = {"quote": [quote], "adjclose": [{"adjclose": closes}]}
    chart = {"result": [{"meta": meta, "timestamp": opens, "indicators": indicators}], "error": None}
    return json.dumps({"chart": chart}).encode()


@contextmanager
def vendor(bars: int) -> Iterator[str]:
    """The URL of such a provider in a process of its own."""
    port = free_port()
    process = Popen([sys.executable, "-m", "bench.vendor", str(port), str(bars)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urlopen(f"{url}/v8/finance/chart/X", timeout=5).close()
                break
            except URLError:
                sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def main(port: int, bars: int) -> None:
    """Serve until told to stop."""
    answers = bodies(bars)
    arrivals: list[float] = []

    async def chart(request: web.Request) -> web.Response:
        arrivals.append(monotonic())
        symbol = request.match_info["symbol"]
        if symbol.startswith("DEAD"):
            return web.json_response(NOT_FOUND, status=404)
        # Not hash(): it differs from process to process, and a second refresh shall find nothing new.
        name = symbol.encode()
        return web.Response(body=answers[sum(name) % MARKETS].replace(b"SYMBOL", name, 1), content_type="application/json")

    async def seen(_request: web.Request) -> web.Response:
        return web.json_response(arrivals)

    async def tops(request: web.Request) -> web.Response:
        at = datetime.now(UTC).isoformat()
        tickers = request.query["tickers"].split(",")
        return web.json_response([{"ticker": each, "timestamp": at, "tngoLast": 10.0, "volume": 100} for each in tickers])

    app = web.Application()
    app.add_routes([web.get("/v8/finance/chart/{symbol}", chart), web.get("/arrivals", seen), web.get("/iex/", tops)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
