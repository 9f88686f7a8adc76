"""`python -m services.scheduler`: one clock; any number may run.

FastStream, which runs the other services, would be half of what a clock keeps in memory.
"""

import asyncio
import gc
import signal
import sys

import structlog

from services.runtime.logs import configure_logging, register_secrets
from services.runtime.schedules.build import schedule_of
from services.runtime.settings import Settings, SettingsError, load_settings, secrets_of
from services.scheduler.app import SERVICE, run

_BAD_SETTINGS, _PART_FAILED = 78, 1


def main() -> None:
    """Tick until SIGTERM or SIGINT; exit 0 then, 78 for bad settings, 1 when a part failed."""
    settings = _read_settings()
    configure_logging(settings.log, SERVICE)
    register_secrets(secrets_of(settings))
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(_run_until_told(settings))
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


async def _run_until_told(settings: Settings) -> None:
    ticking = asyncio.current_task()
    assert ticking is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ticking.cancel)
    await run(settings)


if __name__ == "__main__":
    main()
