"""`quotebus simulate` as a process, and `quotebus fetch` with the variables that it names."""

import asyncio
import re
import sys

import pytest

from quotebus.cli import run

PROGRAM = "from quotebus.cli import main; main()"


async def test_the_line_it_prints_is_all_that_is_needed_to_ask_there(monkeypatch: pytest.MonkeyPatch):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "simulate", "tiingo", "--per-minute", "2", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert re.match(r"tiingo at http://127\.0\.0\.1:\d+: QUOTEBUS_PROVIDERS__TIINGO__BASE_URL=", line)
    variables = dict(re.findall(r"(QUOTEBUS_\w+)=(\S+)", line))
    assert variables["QUOTEBUS_PROVIDERS__TIINGO__PER_MINUTE"] == "2"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = ["fetch", "tiingo", "quote", "AAPL", "MSFT", "-o", "ndjson"]
    assert await asyncio.to_thread(run, asked) == 0
    process.terminate()
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tingo"], "did you mean tiingo?"),
        (["synthetic"], "no provider 'synthetic' to simulate; there are "),
        (["tiingo", "yahoo", "--port", "4444"], "--port 4444: is for one provider"),
    ],
)
def test_what_cannot_be_played_is_told_in_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert run(["simulate", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


async def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]):
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = str(server.sockets[0].getsockname()[1])
    arguments = [sys.executable, "-c", PROGRAM, "simulate", "tiingo", "--port", port]
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    server.close()
    await server.wait_closed()
    assert process.returncode == 2
    assert error.decode().startswith(f"quotebus: --port {port}: ")
    assert error.count(b"\n") == 1
