"""`quotebus fetch` against a vendor that is a server on this machine."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from quotebus.cli import run

TIINGO_DAY = {
    "date": "2024-03-14T00:00:00.000Z",
    "open": 10.0,
    "high": 12.0,
    "low": 9.0,
    "close": 11.0,
    "volume": 500,
    "adjClose": 10.5,
}
BAR_KEYS = [
    "symbol",
    "timeframe",
    "at",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "adjusted_close",
    "trade_count",
    "vwap",
    "currency",
    "basis",
    "final",
    "provider",
]


class Tiingo(BaseHTTPRequestHandler):
    """Knows ACME, has nothing for EMPTY, and is tired of TIRED."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(f"{self.path} {self.headers['Authorization']}")
        status, body = 200, [TIINGO_DAY]
        if "TIRED" in self.path:
            status, body = 429, {"detail": "Error: You have run over your hourly request allocation."}  # type: ignore[assignment]
        elif "ACME" not in self.path:
            status, body = (200, []) if "EMPTY" in self.path else (404, {"detail": "Not found."})  # type: ignore[assignment]
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """What the vendor was asked; the settings lead to it."""
    handler = type("Handler", (Tiingo,), {"asked": []})
    monkeypatch.chdir(tmp_path)
    with serving(handler) as origin:
        monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__BASE_URL", origin)
        monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__API_KEY", "canary-7f3a")
        yield handler.asked


def fetch(*arguments: str) -> int:
    return run(["fetch", *arguments])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_record_has_every_key_and_null_where_nothing_is_known(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("tiingo", "bars", "ACME", "--start", "2024-03-14", "--end", "2024-03-15", "-o", "ndjson") == 0
    out, err = capsys.readouterr()
    assert asked == [
        "/tiingo/daily/ACME/prices?resampleFreq=daily&format=json&startDate=2024-03-14&endDate=2024-03-14 Token canary-7f3a"
    ]
    assert [list(record) for record in lines(out)] == [BAR_KEYS]
    assert lines(out)[0]["at"] == "2024-03-14T00:00:00Z"
    assert not err


def test_a_symbol_that_fails_among_others_has_its_line_and_the_exit_code_is_one(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("tiingo", "bars", "NOSUCH", "ACME", "EMPTY", "ACME", "-o", "ndjson") == 1
    out, err = capsys.readouterr()
    assert [record["symbol"] for record in lines(out)] == ["ACME"]
    assert [(line["error"], line["message"].split(":")[0]) for line in lines(err)] == [("not_found", "NOSUCH"), ("empty", "EMPTY")]
    assert len(asked) == 3


def test_after_a_refusal_for_all_the_rest_is_not_asked_and_it_says_when_to_come_back(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("tiingo", "bars", "TIRED", "ACME", "-o", "json") == 2
    out, err = capsys.readouterr()
    assert not out
    assert [line["error"] for line in lines(err)] == ["rate_limited"]
    assert lines(err)[0]["retry_at"].endswith(":00:00Z")
    assert len(asked) == 1


def test_people_get_a_table_and_sentences(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("tiingo", "bars", "ACME", "NOSUCH") == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == BAR_KEYS
    assert out.splitlines()[1].split()[:3] == ["ACME", "1d", "2024-03-14"]
    assert err == "quotebus: not_found: NOSUCH: tiingo: Not found.\n"


@pytest.mark.parametrize(
    ("arguments", "verdict", "words"),
    [
        (("tingo", "bars", "ACME"), "bad_request", "did you mean tiingo?"),
        (("tiingo", "chain", "ACME"), "bad_request", "tiingo has no chain"),
        (("tiingo", "bars", "ACME", "--end", "2024-03-15"), "bad_request", "--start"),
        (("tiingo", "bars", "ACME", "--start", "2024-03-15", "--end", "2024-03-15"), "bad_request", "not after"),
        (("tiingo", "quote", "ACME", "--start", "2024-03-15"), "bad_request", "range"),
        (("tiingo", "quote", "ACME", "--timeframe", "1d"), "bad_request", "--timeframe"),
        (("tiingo", "bars", ""), "bad_request", "0 bytes"),
        (("tiingo", "bars", "A" * 65), "bad_request", "65 bytes"),
        (("alpha_vantage", "bars", "ACME"), "unauthorized", "QUOTEBUS_PROVIDERS__ALPHA_VANTAGE__API_KEY"),
    ],
)
def test_what_cannot_be_asked_costs_no_call(
    asked: list[str], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], verdict: str, words: str
) -> None:
    assert fetch(*arguments, "-o", "ndjson") == 2
    out, err = capsys.readouterr()
    assert not out
    assert lines(err)[-1]["error"] == verdict
    assert words in lines(err)[-1]["message"]
    assert not asked


def test_a_base_url_that_would_send_a_key_in_the_clear_is_refused(
    asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTEBUS_PROVIDERS__TIINGO__BASE_URL", "http://api.example.com")
    assert fetch("tiingo", "bars", "ACME") == 2
    assert "use https" in capsys.readouterr().err


def test_the_synthetic_market_is_asked_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("synthetic", "bars", "ACME", "--start", "2024-03-04", "--end", "2024-03-07", "-o", "csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_no_bus_is_loaded_to_ask_a_provider() -> None:
    program = (
        "import sys; from quotebus.cli import run; code = run(['fetch', 'synthetic', 'quote', 'BTC-USD', '-o', 'ndjson']);"
        "sys.exit(code or sorted({'nats', 'faststream', 'asyncpg', 'redis'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
