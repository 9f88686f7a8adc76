"""`python -m services.scheduler`: one clock; any number may run.

FastStream, which runs the other services, would be half of what a clock keeps in memory.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import cast

from services.runtime.schedules.build import schedule_of
from services.runtime.settings import Settings, SettingsError, load_settings, secrets_of
from services.scheduler import SERVICE

_BAD_SETTINGS, _PART_FAILED = 78, 1


def main() -> None:
    """Tick until SIGTERM or SIGINT; exit 0 then, 78 for bad settings, 1 when a part failed."""
    settings = _read_settings()
    with _unavailable(_unneeded(settings)):
        import structlog  # noqa: PLC0415  (inside the block)

        from services.runtime.logs import configure_logging, register_secrets  # noqa: PLC0415
        from services.scheduler.app import run  # noqa: PLC0415
    configure_logging(settings.log, SERVICE)
    register_secrets(secrets_of(settings))
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(_until_stopped(run(settings)))
    except asyncio.CancelledError:
        return
    except Exception as error:
        structlog.get_logger().critical("part_failed", error=repr(error), action="the process exits", exc_info=error)
        raise SystemExit(_PART_FAILED) from None


def _read_settings() -> Settings:
    try:
        settings = load_settings(service=SERVICE)
        for job in settings.jobs():
            schedule_of(job)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"{error}\n" if isinstance(error, SettingsError) else f"settings: {error}\n")
        raise SystemExit(_BAD_SETTINGS) from None
    return settings


def _unneeded(settings: Settings) -> list[str]:
    """Libraries that nats-py (for WebSockets) and structlog (for colours) load where they are installed: 12 MiB."""
    needed = {"aiohttp": settings.nats.url.startswith("ws"), "rich": settings.log.format == "console"}
    return [name for name in needed if not needed[name] and name not in sys.modules]


@contextmanager
def _unavailable(names: list[str]) -> Iterator[None]:
    """Let imports of these libraries fail while the block runs, as where they are not installed."""
    modules = cast("dict[str, object]", sys.modules)
    modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            del modules[name]


async def _until_stopped(clock: Coroutine[None, None, None]) -> None:
    running = asyncio.current_task()
    assert running is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    await clock


if __name__ == "__main__":
    main()
