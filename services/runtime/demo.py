"""What the setting `demo` stands for where nothing is configured: a made-up market, refreshed every few seconds."""

from typing import Any

PROVIDER = "synthetic"
SYMBOLS = ["AAPL", "BRK.B", "MSFT", "NVDA", "SPY", "BTC-USD"]  # the last one trades round the clock
DEMO: dict[str, Any] = {
    "providers": {PROVIDER: {"enabled": True}},
    "job": [
        {"id": "demo-quotes", "every_s": 5, "dataset": "quote", "symbols": SYMBOLS, "provider": PROVIDER},
        {"id": "demo-bars", "every_s": 300, "dataset": "bars", "timeframe": "1d", "symbols": SYMBOLS, "provider": PROVIDER},
    ],
}
