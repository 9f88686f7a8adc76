"""What the setting `demo` stands for where nothing is configured: a made-up market, refreshed every few seconds."""

from collections.abc import Mapping
from typing import Any

from services.runtime.job_tables import waits
from services.runtime.settings import Settings
from services.runtime.universe_settings import BUILT_IN

PROVIDER = "synthetic"
SYMBOLS = ["AAPL", "BRK.B", "MSFT", "NVDA", "SPY", "BTC-USD"]  # the last one trades round the clock
JOBS: list[dict[str, Any]] = [
    {"id": "demo-quotes", "every_s": 5, "dataset": "quote", "symbols": SYMBOLS, "provider": PROVIDER},
    {"id": "demo-bars", "every_s": 300, "dataset": "bars", "timeframe": "1d", "symbols": SYMBOLS, "provider": PROVIDER},
]
# What the jobs that ship are for: nobody has filled a table yet.
FOLLOWED = {name: {"pre_populate": SYMBOLS} for name in BUILT_IN}


def is_configured(settings: Settings) -> bool:
    """Whether there is a provider, or a job that does not wait for one."""
    return bool(settings.providers) or not all(waits(table) for table in settings.job)


def demo_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What the demonstration adds to settings that are not configured."""
    universes = {**FOLLOWED, **tree.get("universes", {})}
    return {"providers": {PROVIDER: {"enabled": True}}, "universes": universes, "job": [*tree.get("job", []), *JOBS]}
