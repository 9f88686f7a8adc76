"""What a command finds in the folder it is typed in: settings, a running `quotebus up`, a service's health."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from quotebus.cli import run
from quotebus.cli.local_settings import known_providers, local_settings
from quotebus.embedded import free_port
from services.fetcher.provider import providers

DSN = "postgresql://quotebus:hunter2@up:2/quotebus"
RUNNING = {"nats": "nats://up:1", "postgres": DSN, "redis": "redis://up:3/0", "http": None}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def running(folder: Path) -> None:
    folder.mkdir()
    (folder / "endpoints.json").write_text(json.dumps(RUNNING))


def test_a_running_stack_wins_over_the_defaults_and_not_over_what_is_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_settings().settings.nats.url == "nats://127.0.0.1:4222"
    running(here / ".quotebus")
    found = local_settings()
    assert found.settings.nats.url == "nats://up:1"
    assert found.settings.postgres.dsn.get_secret_value() == DSN
    assert found.settings.redis.url is not None
    assert found.settings.redis.url.get_secret_value() == "redis://up:3/0"
    monkeypatch.setenv("QUOTEBUS_NATS__URL", "nats://set:1")
    (here / "quotebus.toml").write_text('[redis]\nurl = "redis://file:1"\n')
    found = local_settings()
    assert found.settings.nats.url == "nats://set:1"
    assert [found.origin(*key) for key in (("nats", "url"), ("postgres", "dsn"), ("redis", "url"), ("log", "level"))] == [
        "environment QUOTEBUS_NATS__URL",
        "file .quotebus/endpoints.json",
        "file quotebus.toml",
        "default",
    ]


def test_another_data_folder_can_be_meant(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    running(here / "elsewhere")
    assert local_settings(data=Path("elsewhere")).settings.nats.url == "nats://up:1"
    for arguments, folder in ((["--data", "elsewhere"], None), ([], "elsewhere")):
        if folder:
            monkeypatch.setenv("QUOTEBUS_DATA", folder)
        assert run(["config", "show", "-o", "ndjson", *arguments]) == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {"setting": "nats.url", "value": "nats://up:1"} in shown


def test_a_half_written_endpoints_file_is_no_endpoints_file(here: Path) -> None:
    (here / ".quotebus").mkdir()
    (here / ".quotebus" / "endpoints.json").write_text('{"nats": "nats:')
    assert local_settings().settings.nats.url == "nats://127.0.0.1:4222"


def test_the_known_providers_are_those_that_can_be_imported() -> None:
    assert known_providers() == set(providers())


def test_config_show_tells_values_and_origins_and_no_secret(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = min(known_providers())
    variable = f"QUOTEBUS_PROVIDERS__{name}__API_KEY".upper()
    running(here / ".quotebus")
    monkeypatch.setenv(variable, "canary")
    monkeypatch.setenv("QUOTEBUS_NATS__URL", "nats://me:canary@bus:4222")
    monkeypatch.setenv("QUOTEBUS_NOTIFY", '[{"id": "ops", "url": "https://hook.example/canary", "secret": "canary"}]')
    assert run(["config", "show", "--origin", "-o", "json"]) == 0
    text = capsys.readouterr().out
    assert "canary" not in text
    assert "hunter2" not in text
    shown = {row["setting"]: (row["value"], row["origin"]) for row in json.loads(text)}
    assert shown[f"providers.{name}.api_key"] == ("***", f"environment {variable}")
    assert shown["nats.url"] == ("nats://me@bus:4222", "environment QUOTEBUS_NATS__URL")
    assert shown["postgres.dsn"] == ("postgresql://quotebus@up:2/quotebus", "file .quotebus/endpoints.json")
    assert shown["log.level"] == ("info", "default")


@pytest.mark.parametrize("command", [["refresh", "AAPL"], ["watch"], ["jobs"], ["dead", "ls"], ["status"]])
def test_without_nats_a_command_says_where_it_looked_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    monkeypatch.setenv("QUOTEBUS_NATS__URL", url)
    assert run(command) == 2
    wanted = f"no NATS at {url}: Connection refused (url: environment QUOTEBUS_NATS__URL)"
    assert capsys.readouterr().err == f"quotebus: {wanted}; start everything with `quotebus up`, or set QUOTEBUS_NATS__URL\n"


def test_without_postgres_a_command_says_so_and_not_the_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("QUOTEBUS_POSTGRES__DSN", f"postgresql://quotebus:canary@127.0.0.1:{port}/quotebus")
    assert run(["runs", "-o", "json"]) == 2
    error = json.loads(capsys.readouterr().err)
    assert error["error"] == "unreachable"
    assert error["message"].startswith(f"no PostgreSQL at postgresql://quotebus@127.0.0.1:{port}/quotebus: Connection refused")
    assert "canary" not in error["message"]


class _Ready(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"ready": false}')

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is for the tests."""


@pytest.fixture
def service() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Ready) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_health_check_follows_the_service(
    service: HTTPServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTEBUS_HEALTH__PORT", str(service.server_port))
    assert run(["healthcheck"]) == 0
    monkeypatch.delenv("QUOTEBUS_HEALTH__PORT")
    Path("quotebus.toml").write_text(f"[health]\nport = {service.server_port}\n")
    monkeypatch.setattr(_Ready, "status", 503)
    assert run(["healthcheck"]) == 1
    assert capsys.readouterr().err == 'quotebus: not ready: {"ready": false}\n'
    assert run(["healthcheck", "--url", f"http://127.0.0.1:{free_port()}/readyz"]) == 1
    assert "no answer from http://127.0.0.1:" in capsys.readouterr().err
