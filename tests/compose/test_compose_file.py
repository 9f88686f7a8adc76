"""compose.yaml says what it may say, and every container is as closed as it can be."""

import hashlib
import json
import re
import stat
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from quotebus.simulate.server import Simulator
from quotebus.simulate.vendor import vendors
from services.fetcher.accounts import accounts
from services.fetcher.http.egress_policy import check_base_url
from services.fetcher.provider import providers
from services.runtime.settings import Settings, load_settings
from services.runtime.settings.load import without_demo
from tests.compose.composed import OURS, PLAYED, ROOT, SERVERS, command, compose_file, health_command

FILE = compose_file()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
EVERY = pytest.mark.parametrize("name", SERVICES)
EVERY_ONE_OF_OURS = pytest.mark.parametrize("name", OURS)


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run(["sh", str(ROOT / "compose/make_secrets.sh"), str(folder)], check=True, timeout=20)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_the_file_is_what_the_compose_specification_allows() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(FILE, schema)
    raw = yaml.safe_load((ROOT / "compose.yaml").read_text())
    jsonschema.validate(raw, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**FILE, "services": {"nats": {**SERVICES["nats"], "read_onyl": True}}}, schema)


def test_there_is_a_service_a_process_and_nothing_else() -> None:
    assert set(SERVICES) == {*OURS, *SERVERS, PLAYED}
    assert [name for name in SERVICES if SERVICES[name].get("profiles")] == [PLAYED]


@EVERY
def test_a_container_may_not_write_nor_gain_rights_nor_take_the_machine_with_it(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 256
    assert re.fullmatch(r"\d+s", service["stop_grace_period"])
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert not {"network_mode", "pid", "ipc", "devices"} & service.keys()


@EVERY_ONE_OF_OURS
def test_our_services_run_as_a_user_of_their_own_that_is_not_root(name: str) -> None:
    uid, gid = map(int, SERVICES[name]["user"].split(":"))
    assert min(uid, gid) >= 10000
    assert "volumes" not in SERVICES[name]


@EVERY
def test_an_image_is_pinned(name: str) -> None:
    tag = SERVICES[name]["image"].partition(":")[2]
    assert re.match(r"\d+\.\d+(\.\d+)?", tag), tag


@EVERY
def test_a_published_port_is_of_this_machine_alone_and_of_ours_only_the_gateway_has_one(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert bool(ports) == (name in {*SERVERS, "gateway"})


def test_a_service_starts_when_what_it_needs_is_there() -> None:
    needs = {name: {other: on["condition"] for other, on in SERVICES[name]["depends_on"].items()} for name in OURS}
    healthy, done = "service_healthy", "service_completed_successfully"
    assert needs["migrate"] == {"nats": healthy, "postgres": healthy}
    assert needs["scheduler"] == {"migrate": done, "nats": healthy}
    assert needs["fetcher"] == {"migrate": done, "nats": healthy, "postgres": healthy}
    assert needs["cacher"] == {"migrate": done, "nats": healthy, "postgres": healthy, "redis": "service_started"}
    assert needs["gateway"] == needs["cacher"]
    assert needs["notifier"] == {"migrate": done, "nats": healthy}


@EVERY
def test_a_health_check_asks_what_runs_inside(name: str) -> None:
    if name == "migrate":
        assert SERVICES[name]["healthcheck"] == {"disable": True}
        return
    program = {"nats": "wget", "postgres": "pg_isready", "redis": "redis-cli"}.get(name, "quotebus")
    assert health_command(SERVICES[name])[0] == program


def test_the_gateway_knows_the_hash_of_the_token_that_was_made_and_trusts_nobody_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_secrets(tmp_path / "made")
    gateway = settings_of("gateway", made, tmp_path / "mounted", monkeypatch).gateway
    token = made["gateway_token"].strip().encode()
    assert gateway.tokens["operator"].sha256.get_secret_value() == hashlib.sha256(token).hexdigest()
    assert gateway.tokens["operator"].scopes == ["operate"]
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:{gateway.port}:{gateway.port}"]
    assert not gateway.trust_loopback


def test_data_is_kept_in_named_volumes() -> None:
    assert FILE["volumes"].keys() == {"nats", "postgres"}
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert SERVICES["nats"]["volumes"] == ["nats:/data"]
    assert 'store_dir: "/data"' in (ROOT / "compose/nats.conf").read_text()


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for config in service.get("configs", []):
            assert (ROOT / FILE["configs"][config["source"]]["file"]).is_file(), name


def test_the_script_makes_every_secret_once_and_lets_nobody_else_into_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = make_secrets(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444 for file in folder.iterdir())
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(FILE["secrets"]) <= set(made)
    assert all(FILE["secrets"][name] == {"file": f"./secrets/{name}"} for name in used)
    (folder / "QUOTEBUS_PROVIDERS__TIINGO__API_KEY").write_text("mine")
    (folder / "postgres_superuser_password").unlink()
    again = make_secrets(folder)
    assert {name for name in again if again[name] != made[name]} == {
        "QUOTEBUS_PROVIDERS__TIINGO__API_KEY", "postgres_superuser_password"
    }  # fmt: skip
    assert make_secrets(tmp_path / "another")["QUOTEBUS_NATS__PASSWORD"] != made["QUOTEBUS_NATS__PASSWORD"]


@EVERY
def test_nothing_secret_stands_in_the_file(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("PASSWORD|KEY|TOKEN|SECRET|DSN|REDIS__URL", variable):
            assert not value or value.startswith("/run/secrets"), variable


def test_a_secret_is_given_to_whoever_needs_it_and_nobody_else() -> None:
    has = {name: set(service.get("secrets", [])) for name, service in SERVICES.items()}
    assert {name for name in has if any("__API_KEY" in secret for secret in has[name])} == {"migrate", "fetcher"}
    assert {name for name in has if "QUOTEBUS_POSTGRES__DSN" in has[name]} == {"migrate", "fetcher", "cacher", "gateway"}
    assert {name for name in has if "QUOTEBUS_REDIS__URL" in has[name]} == {"cacher", "gateway"}
    assert {name for name in has if any("__TOKENS__" in secret for secret in has[name])} == {"gateway"}
    assert {name for name in has if "QUOTEBUS_NOTIFY" in has[name]} == {"migrate", "notifier"}
    assert {name for name in has if "postgres_superuser_password" in has[name]} == {"postgres"}


def settings_of(name: str, made: dict[str, str], mounted: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a container of this service would load."""
    mounted.mkdir()
    for secret in SERVICES[name]["secrets"]:
        (mounted / secret).write_text(made[secret])
    for variable, value in SERVICES[name]["environment"].items():
        assert variable.startswith("QUOTEBUS_")
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("QUOTEBUS_CONFIG", str(ROOT / "quotebus.toml"))
    monkeypatch.setenv("QUOTEBUS_SECRETS_DIR", str(mounted))
    return load_settings(known_providers=providers())


@EVERY_ONE_OF_OURS
def test_every_variable_and_secret_of_ours_is_a_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_secrets(tmp_path / "made")
    settings = settings_of(name, made, tmp_path / "mounted", monkeypatch)
    assert settings.nats.password is not None
    assert settings.nats.password.get_secret_value() == made["QUOTEBUS_NATS__PASSWORD"].strip()
    assert settings.nats.url == "nats://nats:4222"
    if "QUOTEBUS_POSTGRES__DSN" in SERVICES[name]["secrets"]:
        # Though somebody's .env may hold another one, for the command line on this machine.
        assert SERVICES[name]["environment"]["QUOTEBUS_POSTGRES__DSN"] == ""
        assert settings.postgres.dsn.get_secret_value().endswith("@postgres:5432/quotebus")


@pytest.mark.parametrize("name", ["migrate", "notifier"])
def test_whoever_is_to_be_notified_stands_in_a_secret_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_secrets(tmp_path / "made")
    assert settings_of(name, made, tmp_path / "before", monkeypatch).notify == []
    made["QUOTEBUS_NOTIFY"] = '[{"id": "ops", "url": "slack://a/b/c"}]'
    [receiver] = settings_of(name, made, tmp_path / "after", monkeypatch).notify
    assert (receiver.id, receiver.webhook) == ("ops", False)


@pytest.mark.parametrize("name", ["scheduler", "cacher", "gateway", "notifier"])
def test_a_key_in_the_file_of_variables_reaches_only_whoever_asks_the_provider(name: str) -> None:
    for variable in FILE["secrets"]:
        if "__API_KEY" in variable:
            assert SERVICES[name]["environment"][variable] == ""
            assert variable not in SERVICES["fetcher"]["environment"]


def test_the_clock_asks_for_no_made_up_prices_once_a_provider_has_its_consumers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_secrets(tmp_path / "made")
    settings = settings_of("scheduler", made, tmp_path / "mounted", monkeypatch)
    assert list(settings.providers) == ["synthetic"]
    jobs = without_demo(settings).jobs({"tiingo"})
    assert jobs
    assert not [job for job in jobs if job.id.startswith("demo-") or not job.enabled]


@pytest.mark.parametrize("name", ["migrate", "fetcher"])
def test_there_are_made_up_prices_until_there_is_a_key_and_all_services_agree_on_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_secrets(tmp_path / "made")
    before = settings_of(name, made, tmp_path / "before", monkeypatch)
    assert list(before.providers) == ["synthetic"]
    assert before.jobs()
    made["QUOTEBUS_PROVIDERS__TIINGO__API_KEY"] = "mine"
    after = settings_of(name, made, tmp_path / "after", monkeypatch)
    assert list(after.providers) == ["tiingo"]
    assert not [job for job in after.jobs() if job.id.startswith("demo-") or not job.enabled]


async def test_the_demonstration_asks_the_vendor_that_is_played_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (ROOT / "compose/demo.env").read_text().splitlines():
        name, _, value = line.partition("=")
        if name.startswith("QUOTEBUS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("QUOTEBUS_CONFIG", str(ROOT / "quotebus.toml"))
    settings = load_settings(known_providers=providers())
    assert {job.enabled for job in settings.jobs()} == {True}
    options = command(SERVICES[PLAYED])[2:]
    assert options[0] == "tiingo"
    assert settings.providers["tiingo"].base_url == f"http://{PLAYED}:{options[options.index('--port') + 1]}"
    account = accounts(settings)["tiingo"]
    assert check_base_url(account.base_url, account.egress_policy)[1] == PLAYED
    async with Simulator(vendors()["tiingo"]).serve() as played:
        assert account.keys[0].name == "k1"
        assert settings.providers["tiingo"].api_key is not None
        key = settings.providers["tiingo"].api_key.get_secret_value()
        assert played.environment({})["QUOTEBUS_PROVIDERS__TIINGO__API_KEY"] == key
