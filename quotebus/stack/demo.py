"""Demo of `quotebus up` without configuration: a made-up market, refreshed every few seconds."""

from contracts.refresh_request import RefreshRequest
from services.runtime.settings import Settings
from services.runtime.settings.load import DEMO_JOBS, DEMO_PROVIDER, DEMO_SYMBOLS, is_configured


def demo_environment(settings: Settings) -> dict[str, str]:
    """The settings of the demonstration; none where a provider or a job is configured."""
    if is_configured(settings) and not all(job in settings.job for job in DEMO_JOBS):
        return {}
    return {"QUOTEBUS_DEMO": "true"}


def first_requests() -> list[RefreshRequest]:
    """Initial refresh requests, so that prices arrive before a job's first slot."""
    return [
        RefreshRequest(symbols=DEMO_SYMBOLS, dataset="quote", provider=DEMO_PROVIDER),
        RefreshRequest(symbols=DEMO_SYMBOLS, dataset="bars", timeframe="1d", provider=DEMO_PROVIDER),
    ]
