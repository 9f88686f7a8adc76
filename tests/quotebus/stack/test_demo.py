"""What `quotebus up` and containers do with nothing configured."""

import pytest

from contracts.message import encode
from quotebus.stack.demo import demo_environment, first_requests
from services.runtime.settings import ProviderSettings, Settings, load_settings, read_settings
from services.runtime.settings.load import DEMO_PROVIDER


def test_with_nothing_configured_the_made_up_market_is_there_and_every_job_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in demo_environment(Settings()).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert list(settings.providers) == [DEMO_PROVIDER]
    jobs = settings.jobs()
    assert {(job.dataset, job.provider) for job in jobs if job.id.startswith("demo-")} == {
        ("quote", DEMO_PROVIDER),
        ("bars", DEMO_PROVIDER),
    }
    assert {"prices_1m", "options_refresh", "daily_refresh"} < {job.id for job in jobs if job.enabled and job.universe}
    assert all(settings.universes[job.universe].pre_populate for job in jobs if job.universe)
    assert demo_environment(settings) == demo_environment(Settings())


@pytest.mark.parametrize(
    ("variable", "value"),
    [("QUOTEBUS_PROVIDERS__TIINGO__API_KEY", "k"), ("QUOTEBUS_JOB", '[{"id": "mine", "every_s": 60, "symbols": ["AAPL"]}]')],
)
def test_the_demonstration_ends_with_the_first_provider_or_job_though_its_setting_stays(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("QUOTEBUS_DEMO", "true")
    loaded = read_settings()
    assert loaded.origin("providers", DEMO_PROVIDER, "enabled") == "demo market"
    monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.demo
    assert DEMO_PROVIDER not in settings.providers
    assert "demo-quotes" not in [job.id for job in settings.jobs()]
    assert demo_environment(settings) == {}


@pytest.mark.parametrize(
    "settings",
    [Settings(providers={"tiingo": ProviderSettings()}), Settings(job=[{"id": "mine", "every_s": 60, "symbols": ["AAPL"]}])],
)
def test_whoever_configured_anything_gets_no_made_up_prices(settings: Settings) -> None:
    assert demo_environment(settings) == {}


def test_the_first_requests_can_be_sent() -> None:
    assert all(encode(request) for request in first_requests())
