"""Structured logs: JSON lines or console, with every registered secret redacted."""

import json
import logging
import re
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

import structlog

from services.runtime.settings import LogSettings

HIDDEN = "***"

SHORTEST_SECRET = 4
_LOOKS_SECRET = re.compile(r"(?i)\b(api_?key|apitoken|token|access_?key|api_?secret|secret|password)=[^&\s\"'\\]+")


class Redactor:
    """Puts `***` in place of each secret: as it is written, in capitals or not, percent-encoded, in base64, or with backslashes.

    Secrets shorter than `at_least` characters stay: they are words that stand in any text.
    """

    def __init__(self, secrets: Iterable[str], at_least: int) -> None:
        spellings = {spelling for secret in secrets if len(secret) >= at_least for spelling in _spellings(secret)}
        # The longest first: a spelling may begin with another.
        found = "|".join(_pattern(spelling) for spelling in sorted(spellings, key=len, reverse=True))
        self._text, self._bytes = re.compile(found, re.IGNORECASE), re.compile(found.encode(), re.IGNORECASE)
        # Looking for one plain text after the other is ten times as quick as the pattern, and hardly ever is one there.
        self._words = {spelling.lower() for spelling in spellings}
        self._needles = {spelling.encode().lower() for spelling in spellings}

    def text(self, text: str) -> str:
        """The text without the secrets."""
        low = text.lower().replace("\\", "") if self._words else ""
        return self._text.sub(HIDDEN, text) if any(word in low for word in self._words) else text

    def body(self, body: bytes) -> bytes:
        """The bytes without the secrets; the very same object where there are none."""
        low = body.lower().replace(b"\\", b"") if self._needles else b""
        return self._bytes.sub(HIDDEN.encode(), body) if any(needle in low for needle in self._needles) else body


def _spellings(secret: str) -> Iterable[str]:
    """Without backslashes, as these may be doubled any number of times where one text is quoted within another."""
    for spelling in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield spelling.replace("\\", "")
    yield from _in_base64(secret.encode())


def _pattern(spelling: str) -> str:
    return "".join(r"\\*" + re.escape(letter) for letter in spelling)


def _in_base64(secret: bytes) -> Iterable[str]:
    """Substrings that all base64 texts with the secret share, for each of its three alignments and both alphabets."""
    for before in range(3):
        whole = b"\0" * before + secret
        # Letters that a neighbouring byte has a part in are left out.
        first, last = -(-before * 8 // 6), len(whole) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(whole).decode()[first:last]


@dataclass
class _Secrets:
    secrets: set[str] = field(default_factory=set)
    redactor: Redactor = field(default_factory=lambda: Redactor((), SHORTEST_SECRET))


_SECRETS = _Secrets()


def register_secrets(secrets: Iterable[str]) -> None:
    """From now on these texts appear in no log line, and in no state that a service tells of itself."""
    _SECRETS.secrets.update(secrets)
    _SECRETS.redactor = Redactor(_SECRETS.secrets, SHORTEST_SECRET)


def redact(text: str) -> str:
    """The text without any secret that was announced by `hide`, and without values of query parameters that hold keys."""
    return _LOOKS_SECRET.sub(rf"\1={HIDDEN}", _SECRETS.redactor.text(text))


def _redacted(render: Any) -> Any:
    """The finished line is what is scrubbed: a secret may sit deep in a list, in an exception, or in a traceback."""

    def rendered(logger: object, method: str, event: Any) -> str:
        return redact(render(logger, method, event))

    return rendered


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # Python's own way would print the error's words as they are.
    structlog.get_logger().critical("crashed", exc_info=(kind, error, trace))


class _Bridge(logging.Handler):
    """Libraries that log in the standard way end in the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        method = level if level in ("debug", "info", "warning", "error", "critical") else "info"
        fault = {"error": repr(record.exc_info[1])} if record.exc_info and record.exc_info[1] else {}
        getattr(structlog.get_logger(), method)(record.getMessage(), logger=record.name, **fault)


def configure_logging(settings: LogSettings, service: str) -> None:
    """Send every log line of the process to stderr in the chosen format, with the service's name."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer: Any = structlog.processors.JSONRenderer()
    if settings.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redacted(renderer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    sys.excepthook = _log_crash
    logging.basicConfig(handlers=[_Bridge()], level=max(level, logging.INFO), force=True)
    for talkative in ("faststream", "aiohttp.access", "nats", "asyncio"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
