"""What `quotebus up` does with nothing configured."""

import pytest

from contracts.message import encode
from quotebus.demo import PROVIDER, demo_environment, first_requests
from services.runtime.load_settings import load_settings
from services.runtime.settings import ProviderSettings, Settings


def test_with_nothing_configured_only_the_made_up_market_is_enabled_and_two_jobs_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in demo_environment(Settings()).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert list(settings.providers) == [PROVIDER]
    assert {(job.dataset, job.provider) for job in settings.jobs()} == {("quote", PROVIDER), ("bars", PROVIDER)}


@pytest.mark.parametrize(
    "settings",
    [Settings(providers={"tiingo": ProviderSettings()}), Settings(job=[{"id": "mine", "every_s": 60, "symbols": ["AAPL"]}])],
)
def test_whoever_configured_anything_gets_no_made_up_prices(settings: Settings) -> None:
    assert demo_environment(settings) == {}


def test_the_first_requests_can_be_sent() -> None:
    assert all(encode(request) for request in first_requests())
