"""What `quotebus up` shows when nothing is configured: a made-up market, refreshed every few seconds."""

import json

from contracts.refresh_request import RefreshRequest
from services.runtime.settings import Settings

PROVIDER = "synthetic"
SYMBOLS = ["AAPL", "BRK.B", "MSFT", "NVDA", "SPY", "BTC-USD"]  # the last one trades round the clock
_JOBS = [
    {"id": "demo-quotes", "every_s": 5, "dataset": "quote", "symbols": SYMBOLS, "provider": PROVIDER},
    {"id": "demo-bars", "every_s": 300, "dataset": "bars", "timeframe": "1d", "symbols": SYMBOLS, "provider": PROVIDER},
]


def demo_environment(settings: Settings) -> dict[str, str]:
    """The settings of the demonstration; none where a provider or a job is configured."""
    if settings.providers or settings.job:
        return {}
    return {"QUOTEBUS_PROVIDERS__SYNTHETIC__ENABLED": "true", "QUOTEBUS_JOB": json.dumps(_JOBS)}


def first_requests() -> list[RefreshRequest]:
    """What is asked for at once, so that nobody waits for a job's first slot."""
    return [
        RefreshRequest(symbols=SYMBOLS, dataset="quote", provider=PROVIDER),
        RefreshRequest(symbols=SYMBOLS, dataset="bars", timeframe="1d", provider=PROVIDER),
    ]
