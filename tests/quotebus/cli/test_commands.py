"""A command is a file: found by its first line, imported when it is called."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quotebus import cli
from quotebus.cli import commands, run

PING = '''"""`quotebus ping`: answer at once."""

import click


@click.command()
def ping() -> int:
    """Answer at once."""
    click.echo("pong")
    return 0
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of commands of which the first is `ping`."""
    (tmp_path / "ping.py").write_text(PING)
    (tmp_path / "pieces.py").write_text('"""Pieces that several commands share."""\n')
    (tmp_path / "follow.py").write_text('"""`quotebus ping --follow`: a part of another command."""\n')
    monkeypatch.setattr(cli, "_FOLDER", tmp_path)
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    commands.cache_clear()
    yield tmp_path
    commands.cache_clear()
    sys.modules.pop("quotebus.cli.ping", None)


def test_a_file_in_the_folder_is_a_command_that_is_listed_and_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dict(commands()) == {"ping": "Answer at once."}
    assert run(["--help"]) == 0
    assert "ping  Answer at once." in capsys.readouterr().out
    assert "quotebus.cli.ping" not in sys.modules
    assert run(["ping"]) == 0
    assert capsys.readouterr().out == "pong\n"


def test_a_name_of_no_command_is_a_wrong_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pieces"]) == 2
    assert "pieces" in capsys.readouterr().err


def test_every_command_that_a_person_knows_is_there() -> None:
    known = {"up", "refresh", "fetch", "simulate", "watch", "price", "history", "jobs", "plan", "runs", "dead", "providers"}
    assert known | {"symbols", "doctor", "status", "config", "migrate", "healthcheck"} <= set(commands())
