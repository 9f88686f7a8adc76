"""Logs: one line an event, JSON for machines or text for people, and never a secret."""

import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import structlog

from services.runtime.redact import HIDDEN, Redactor
from services.runtime.settings import LogSettings

SHORTEST_SECRET = 4
_LOOKS_SECRET = re.compile(r"(?i)\b(api_?key|apitoken|token|access_?key|api_?secret|secret|password)=[^&\s\"'\\]+")


@dataclass
class _Hidden:
    secrets: set[str] = field(default_factory=set)
    redactor: Redactor = field(default_factory=lambda: Redactor((), SHORTEST_SECRET))


_HIDDEN = _Hidden()


def hide(secrets: Iterable[str]) -> None:
    """From now on these texts appear in no log line, and in no state that a service tells of itself."""
    _HIDDEN.secrets.update(secrets)
    _HIDDEN.redactor = Redactor(_HIDDEN.secrets, SHORTEST_SECRET)


def scrub(text: str) -> str:
    """The text without any secret that was announced by `hide`, and without values of query parameters that hold keys."""
    return _LOOKS_SECRET.sub(rf"\1={HIDDEN}", _HIDDEN.redactor.text(text))


def _scrubbed(render: Any) -> Any:
    """The finished line is what is scrubbed: a secret may sit deep in a list, in an exception, or in a traceback."""

    def rendered(logger: object, method: str, event: Any) -> str:
        return scrub(render(logger, method, event))

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
            _scrubbed(renderer),
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
