"""Which service is given which secrets: in its environment, and in the settings it reads."""

from pathlib import Path

import pytest

from services.runtime.settings import load_settings, secrets_of
from services.runtime.settings.secret_scope import SECRETS_USED, environment_for

GIVEN = {
    "PATH": "/bin",
    "PGPASSWORD": "canary-postgres-3",
    "QUOTEBUS_LOG__LEVEL": "debug",
    "QUOTEBUS_NATS__PASSWORD": "canary-nats",
    "QUOTEBUS_POSTGRES__DSN": "postgresql://q:canary-postgres@h/d",
    "QUOTEBUS_REDIS__URL": "redis://q:canary-redis@h/0",
    "QUOTEBUS_PROVIDERS__TIINGO__API_KEY": "canary-provider",
    "QUOTEBUS_PROVIDERS__TIINGO__KEYS__PAID__API_SECRET": "canary-provider-2",
    "QUOTEBUS_PROVIDERS__FMP": '{"api_key": "canary-provider-3", "priority": 3}',
    "QUOTEBUS_UNIVERSES__TECH": '{"sql": "SELECT 1", "dsn": "postgresql://q:canary-universe@h/d"}',
    "QUOTEBUS_GATEWAY__TOKENS__ANN__SHA256": "c" * 64,
    "QUOTEBUS_GATEWAY__TOKENS__ANN__SCOPES": '["read"]',
    "QUOTEBUS_NOTIFY": '[{"id": "ops", "url": "slack://canary-notify"}]',
}
CANARIES = {
    "canary-nats": set(SECRETS_USED),
    "canary-provider": {"fetcher"},
    "canary-universe": {"fetcher"},
    "canary-postgres": {"fetcher", "cacher", "gateway"},
    "canary-redis": {"cacher", "gateway"},
    "c" * 64: {"gateway"},
    "canary-notify": {"notifier"},
}


@pytest.mark.parametrize("service", SECRETS_USED)
def test_a_service_is_given_the_secrets_it_uses_and_no_other(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = environment_for(service, GIVEN)
    shown = " ".join(environment.values())
    for canary, users in CANARIES.items():
        assert (canary in shown) == (service in users), canary
    assert environment["PATH"] == "/bin"
    monkeypatch.chdir(tmp_path)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    settings = load_settings()
    assert settings.log.level == "debug"
    assert settings.universes["tech"].sql == "SELECT 1"
    assert settings.providers["fmp"].priority == 3


@pytest.mark.parametrize("service", SECRETS_USED)
def test_a_service_keeps_no_secret_of_others_that_stands_in_a_file(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("QUOTEBUS_SECRETS_DIR", str(folder))
    for name, text in GIVEN.items():
        if name.startswith("QUOTEBUS_"):
            (folder / name).write_text(text)
    Path("quotebus.toml").write_text('[providers.polygon]\napi_key = "canary-provider-4"\npriority = 7\n')
    settings = load_settings(service=service)
    shown = " ".join(secrets_of(settings))
    for canary, users in CANARIES.items():
        assert (canary in shown) == (service in users), canary
    assert settings.providers["polygon"].priority == 7


def test_a_program_that_is_no_service_is_given_everything() -> None:
    assert environment_for("migrate", GIVEN) == GIVEN
