"""What `quotebus up` shows when nothing is configured: a made-up market, refreshed every few seconds."""

from contracts.refresh_request import RefreshRequest
from services.runtime.demo import JOBS, PROVIDER, SYMBOLS, is_configured
from services.runtime.settings import Settings


def demo_environment(settings: Settings) -> dict[str, str]:
    """The settings of the demonstration; none where a provider or a job is configured."""
    if is_configured(settings) and not all(job in settings.job for job in JOBS):
        return {}
    return {"QUOTEBUS_DEMO": "true"}


def first_requests() -> list[RefreshRequest]:
    """What is asked for at once, so that nobody waits for a job's first slot."""
    return [
        RefreshRequest(symbols=SYMBOLS, dataset="quote", provider=PROVIDER),
        RefreshRequest(symbols=SYMBOLS, dataset="bars", timeframe="1d", provider=PROVIDER),
    ]
