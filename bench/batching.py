"""Many symbols in few calls: quotes of 500 symbols from a provider that takes 50 a call and 20 calls a minute."""

from pathlib import Path
from tempfile import TemporaryDirectory

from bench.report import Figure
from bench.vendor import vendor
from bench.whole_run import whole_run
from tests.connected.deployment import deployed

SYMBOLS, PER_CALL, CALLS_PER_MINUTE = 500, 50, 20


async def figures() -> list[Figure]:
    """The run's seconds, and how full its calls were."""
    with vendor(1) as url, TemporaryDirectory() as folder:
        account = "QUOTEBUS_PROVIDERS__TIINGO__"
        environment = {
            f"{account}BASE_URL": url,
            f"{account}API_KEY": "none",
            f"{account}PER_MINUTE": str(CALLS_PER_MINUTE),
            f"{account}PER_HOUR": "0",
            f"{account}PER_DAY": "0",
            "QUOTEBUS_LOG__LEVEL": "error",
        }
        async with deployed(Path(folder), ("fetcher", "cacher"), environment, fast=False) as deployment:
            took, finished = await whole_run(deployment, [f"S{number:03d}" for number in range(SYMBOLS)], "quote")
    calls = finished.calls["tiingo"]
    return [
        Figure("500 symbols, a call every 3 s, seconds", took, 30, f"{finished.counts}", at_most=True),
        Figure("calls", calls, SYMBOLS / PER_CALL, f"{SYMBOLS / calls:.1f} symbols a call", at_most=True),
    ]
