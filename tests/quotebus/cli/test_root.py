"""The command line as such: what it lists, how quickly it may start, how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from quotebus.cli import commands, root, run

HEAVY = ("msgspec", "nats", "pydantic", "pydantic_settings", "asyncpg", "redis", "aiohttp", "rich", "faststream", "asyncio")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_listing_shows_every_command_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, line in commands().items():
        assert any(part.split() == [name, *line.split()] for part in shown.splitlines()), name


def test_the_listing_imports_no_command_and_nothing_heavy() -> None:
    script = (
        "import sys\nfrom quotebus.cli import run\nrun(['--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_health_check_of_a_container_needs_nothing_heavy() -> None:
    script = (
        "import sys\nfrom quotebus.cli import run\nrun(['healthcheck', '--url', 'http://127.0.0.1:9'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", commands())
def test_every_command_explains_itself_and_its_options(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.help
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    for each in commands:
        for option in each.params:
            if isinstance(option, click.Option):
                assert option.help or isinstance(option.type, click.Choice), f"{each.name} {option.name}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "quotebus: No such command 'frob'. (see `quotebus --help`)"),
        (["refresh"], "quotebus: Missing argument 'SYMBOL...'. (see `quotebus refresh --help`)"),
        (["jobs", "pause", "a"], "quotebus: Missing option '--reason'. (see `quotebus jobs pause --help`)"),
        (["watch", ""], "quotebus: PATTERN: symbol '': 0 bytes; give 1 to 64"),
        (["dead", "drop"], "quotebus: name letters by their numbers, or give --all: `quotebus dead ls` lists them"),
        (["refresh", "A", "--start", "2024-01-02"], "quotebus: start, end: give both or none"),
        (["refresh", "A", "--dataset", "quote", "--timeframe", "1d"], "quotebus: timeframe: a quote has none"),
        (["jobs", "add", "a", "A", "--every", "5x"], "quotebus: Invalid value for '--every': '5x' is no length of time; give"),
    ],
)
def test_a_wrong_use_is_one_line_that_says_what_to_do(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(said)
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("output", [["-o", "json"], ["-ondjson"], ["--output=json"]])
def test_with_json_the_error_is_json_too(capsys: pytest.CaptureFixture[str], output: list[str]) -> None:
    assert run(["refresh", *output]) == 2
    error = json.loads(capsys.readouterr().err)
    assert error == {"error": "usage", "message": "Missing argument 'SYMBOL...'."}


def test_bad_settings_are_named_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("quotebus.toml").write_text("[nat]\nx = 1\n[log]\nlevel = 'loud'\n")
    assert run(["status"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "quotebus: quotebus.toml: log.level: give one of debug, info, warning, error",
        "quotebus.toml: nat: no such setting; did you mean nats?",
    ]


def test_whoever_closes_our_output_early_sees_no_complaint() -> None:
    script = (
        "from quotebus import cli\n"
        "cli.root.main = lambda **_: [print('x' * 100) for _ in range(20000)]\n"
        "raise SystemExit(cli.run(['history', 'AAPL']))"
    )
    pipeline = '"$0" -c "$1" | head -1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(["bash", "-c", pipeline, sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["x" * 100, "0"]
    assert done.stderr == ""
