import base64
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from services.runtime import logs
from services.runtime.health import Health
from services.runtime.logs import Redactor
from services.runtime.settings import LogSettings

KEY = 'ca/nary+7f3a=90%b1 "ü'
redact = Redactor([KEY, "tiny"], at_least=8)


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        quote(KEY),
        quote(KEY, safe=""),
        quote(KEY, safe="").lower(),
        quote_plus(KEY).upper(),
        json.dumps(KEY)[1:-1],
        json.dumps(json.dumps(KEY)[1:-1])[1:-1],
        repr(KEY.replace("/", "\\/"))[1:-1],
        json.dumps(KEY, ensure_ascii=False)[1:-1].replace("/", "\\/"),
    ],
)
def test_a_secret_is_found_however_it_is_written(spelling: str) -> None:
    assert redact.text(f"before {spelling} after") == "before *** after"
    assert redact.body(f"[{spelling}]".encode()) == b"[***]"


@given(st.binary(max_size=7), st.binary(max_size=7))
def test_a_secret_within_base64_is_found_wherever_it_stands(before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        hidden = redact.text(encode(before + KEY.encode() + after).decode())
        assert "***" in hidden
        # What is left are the neighbours, and the letters that hold a part of one.
        assert len(hidden) < 32


def test_a_body_without_a_secret_is_the_very_same_object_and_a_short_word_is_no_secret() -> None:
    body = b'{"symbol":"tiny"}'
    assert redact.body(body) is body
    assert redact.text("tiny") == "tiny"
    assert Redactor([], 8).body(body) is body


@contextmanager
def logging_like_a_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs as a service writes them, with a secret hidden; put back as they were afterwards."""
    monkeypatch.setattr(logs, "_SECRETS", logs._Secrets())
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    levels = {name: logging.getLogger(name).level for name in ("faststream", "aiohttp.access", "nats", "asyncio")}
    logs.configure_logging(LogSettings(level="debug"), "test")
    logs.register_secrets([KEY])
    try:
        yield
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def say_the_secret_in_every_way() -> None:
    log = structlog.get_logger()
    log.warning("a list of things", things=[{"deep": (KEY,)}], error=ValueError(KEY), name=quote(KEY))
    try:
        raise RuntimeError(f"cannot use {KEY}")
    except RuntimeError:
        log.exception("failed")
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    logging.getLogger("somebody").error("with %s", KEY, exc_info=ValueError(KEY))
    log.debug("asked", url="https://api.example.com/a?apikey=unknown-yet&symbol=A")


def test_no_log_line_holds_a_secret_wherever_it_hides_in_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_like_a_service(monkeypatch):
        say_the_secret_in_every_way()
    said = capsys.readouterr().err
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["event"] for line in lines] == ["a list of things", "failed", "crashed", "with ***", "asked"]
    assert all("***" in json.dumps(line) for line in lines)
    assert "nary" not in said
    assert "unknown-yet" not in said
    assert "cannot use" in lines[2]["exception"]


def test_the_state_of_a_part_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_SECRETS", logs._Secrets())
    logs.register_secrets([KEY])
    health = Health("fetcher")
    health.ready("worker", False, f"ValueError('{KEY}')")
    assert health.report()["parts"] == {"worker": "ValueError('***')"}
