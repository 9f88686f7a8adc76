"""compose.yaml as Docker Compose itself reads it: its `config` needs no daemon."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compose.composed import OURS, PLAYED, ROOT, compose_file

PROGRAM = shutil.which("docker-compose", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no docker-compose here; the specification's schema is checked without it")


def config(folder: Path, dotenv: str = "") -> dict[str, Any]:
    """What it makes of the file beside a .env of this text."""
    for name in ("compose.yaml", "Dockerfile", "quotebus.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "compose", folder / "compose")
    (folder / ".env").write_text(dotenv)
    command = [str(PROGRAM), "config", "--format", "json"]
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def test_it_accepts_the_file_and_reads_it_as_we_do(tmp_path: Path) -> None:
    services, ours = config(tmp_path)["services"], compose_file()["services"]
    assert services.keys() == ours.keys() - {PLAYED}
    for name, service in services.items():
        assert service["command"] == ours[name]["command"]
        assert service.get("environment") == ours[name].get("environment")
        assert service["read_only"]
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
        assert [secret["target"] for secret in service["secrets"]] == [f"/run/secrets/{each}" for each in ours[name]["secrets"]]


def test_the_demonstration_adds_the_played_vendor_and_sends_the_fetcher_there(tmp_path: Path) -> None:
    services = config(tmp_path, (ROOT / "compose/demo.env").read_text())["services"]
    assert services.keys() == compose_file()["services"].keys()
    assert services[PLAYED]["command"][:3] == ["quotebus", "simulate", "tiingo"]
    assert not services[PLAYED].get("secrets")
    for name in ("migrate", "scheduler", "fetcher"):
        assert services[name]["environment"]["QUOTEBUS_PROVIDERS__TIINGO__BASE_URL"] == "http://simulate:9000"
        assert services[name]["environment"]["QUOTEBUS_UNIVERSES__ACTIVE__PRE_POPULATE"].startswith('["AAPL"')


def test_dotenv_reaches_the_services_but_leads_none_to_the_servers_of_the_command_line(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text().replace("\n#QUOTEBUS_", "\nQUOTEBUS_").replace("\n#NATS_PORT=", "\nNATS_PORT=")
    services = config(tmp_path, text)["services"]
    for name in OURS:
        environment = services[name]["environment"]
        assert environment["QUOTEBUS_NATS__URL"] == "nats://nats:4222"
        assert {environment[f"QUOTEBUS_{each}"] for each in ("POSTGRES__DSN", "REDIS__URL", "NATS__PASSWORD")} == {""}
        assert environment["QUOTEBUS_PROVIDERS__TIINGO__PER_HOUR"] == "10000"
        assert environment["QUOTEBUS_DEMO"] == "false"
    assert [port["published"] for port in services["nats"]["ports"]] == ["14222"]
