"""How a clock starts: one program reads the settings, then becomes another that keeps none of what that took.

pydantic, and what nats-py and structlog load in case somebody needs WebSockets or colours, would be half of what a clock keeps in
memory. The second program has the first one's process id, and finds what it has to know in an open file that has no name: no
secret is in its arguments or its environment.
"""

import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Sequence

import msgspec

_PROGRAM = "services.scheduler"
_BAD_SETTINGS, _PART_FAILED = 78, 1


def main(arguments: Sequence[str]) -> None:
    """Read the settings and begin anew, with the number of the file as the only argument; with it, tick."""
    if not arguments:
        _become(_read_settings())
    with os.fdopen(int(arguments[0]), "rb") as file:
        body = file.read()
    _tick(body)


def _read_settings() -> bytes:
    from services.runtime.load_settings import SettingsError, load_settings  # noqa: PLC0415  (not for the second program)
    from services.runtime.schedules import schedule_of  # noqa: PLC0415
    from services.runtime.settings_secrets import secrets_of  # noqa: PLC0415
    from services.scheduler import terms as t  # noqa: PLC0415

    try:
        settings = load_settings()
        jobs = settings.jobs()
        for job in jobs:
            schedule_of(job)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"{error}\n" if isinstance(error, SettingsError) else f"settings: {error}\n")
        raise SystemExit(_BAD_SETTINGS) from None
    nats, password = settings.nats, settings.nats.password
    hidden = t.Hidden(password.get_secret_value()) if password else None
    return msgspec.json.encode(
        t.Terms(
            enabled=settings.scheduler.enabled,
            nats=t.Nats(nats.url, nats.user, hidden, nats.credentials_file),
            health=t.Listening(settings.health.host, settings.health.port),
            log=t.Log(settings.log.level, settings.log.format),
            jobs=jobs,
            secrets=[t.Hidden(secret) for secret in secrets_of(settings)],
        )
    )


def _become(body: bytes) -> None:
    """Be the second program. Where files without a name need no disk there is none written to."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("settings")
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    # A large body may take more than one write.
    left = memoryview(body)
    while left:
        left = left[os.write(number, left) :]
    os.lseek(number, 0, os.SEEK_SET)
    os.set_inheritable(number, True)
    flags = ["-P"] if sys.flags.safe_path else []
    os.execv(sys.executable, [sys.executable, *flags, "-m", _PROGRAM, str(number)])  # noqa: S606  (our own program, and no shell wanted)


def _tick(body: bytes) -> None:
    from services.scheduler.terms import Terms  # noqa: PLC0415

    terms = msgspec.json.decode(body, type=Terms)
    # nats-py and structlog do without these two where they are not installed; here they are as if not.
    for module, needed in (("aiohttp", terms.nats.url.startswith("ws")), ("rich", terms.log.format == "console")):
        if not needed:
            sys.modules[module] = None  # type: ignore[assignment]
    import structlog  # noqa: PLC0415  (after the lines above)

    from services.runtime.logs import configure_logging, hide  # noqa: PLC0415
    from services.scheduler.app import SERVICE, run  # noqa: PLC0415

    configure_logging(terms.log, SERVICE)
    hide(secret.text for secret in terms.secrets)
    gc.collect()
    gc.freeze()

    async def until_told() -> None:
        ticking = asyncio.current_task()
        assert ticking is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ticking.cancel)
        await run(terms)

    try:
        asyncio.run(until_told())
    except asyncio.CancelledError:
        return
    except Exception as error:
        structlog.get_logger().critical("part_failed", error=repr(error), action="the process exits", exc_info=error)
        raise SystemExit(_PART_FAILED) from None
