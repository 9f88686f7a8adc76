"""Logs: one line an event, JSON for machines or text for people, and never a secret."""

import logging
import re
import sys
from collections.abc import Iterable
from typing import Any

import structlog

from services.runtime.settings import LogSettings

_SECRETS: set[str] = set()
_LOOKS_SECRET = re.compile(r"(?i)\b(apikey|api_key|token|access_key|password)=[^&\s\"']+")


def hide(secrets: Iterable[str]) -> None:
    """From now on these texts appear in no log line."""
    _SECRETS.update(s for s in secrets if len(s) >= 4)


def scrub(text: str) -> str:
    """The text without any secret that was announced by `hide`, and without values of query parameters that hold keys."""
    for secret in _SECRETS:
        text = text.replace(secret, "***")
    return _LOOKS_SECRET.sub(r"\1=***", text)


def _scrub_event(_logger: object, _method: str, event: Any) -> Any:
    return {key: scrub(value) if isinstance(value, str) else value for key, value in event.items()}


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
            _scrub_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(handlers=[_Bridge()], level=max(level, logging.INFO), force=True)
    for talkative in ("faststream", "aiohttp.access", "nats", "asyncio"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
