"""`quotebus up` as a person types it, where it cannot start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from quotebus.embedded import FolderLock

MAIN = "import sys; from quotebus.cli import main; sys.argv[0] = 'quotebus'; main()"


def up(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "up", "--data", "data", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_data_in_use_is_one_line_that_names_folder_and_process(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "data" / "up.lock"):
        ended = up(tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"quotebus: data folder {tmp_path}/data is already in use by process {os.getpid()}: stop it, or give another folder"
    ]


def test_a_port_that_was_asked_for_and_is_taken_is_one_line_and_nothing_stays_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = up(tmp_path, "--redis-port", str(port), "--nats-port", "0", "--postgres-port", "0")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"quotebus: port {port} is taken: stop what listens there, or give redis another port or 0"
    ]
    with FolderLock(tmp_path / "data" / "nats.lock"), FolderLock(tmp_path / "data" / "postgres.lock"):
        pass


def test_wrong_settings_are_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "quotebus.toml").write_text("[natz]\nurl = 'nats://127.0.0.1:4222'\n")
    ended = up(tmp_path)
    assert ended.returncode == 2
    assert "natz" in ended.stderr
    assert not (tmp_path / "data").exists()
