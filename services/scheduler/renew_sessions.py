"""Keeps the bucket `sessions` up to date, by a short process that may import what a clock must not."""

import asyncio
import sys
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from contracts.message import decode, encode
from contracts.subjects import SESSIONS_BUCKET
from contracts.trading_sessions import TradingSessions
from services.runtime.bus import Bus
from services.runtime.schedules.calendar_store import read_sessions
from services.scheduler.on_trading_sessions import CalendarWatcher

# -P: a folder named `services` where somebody happens to be must not be taken for ours.
_COMMAND = (sys.executable, "-P", "-m", "services.scheduler.build_sessions")
_MAX_AGE = timedelta(hours=24)
_RETRY_S = 600.0
_BUILD_TIMEOUT_S = 120.0

log = structlog.get_logger()


class SessionsError(Exception):
    """Sessions could not be made; the message names the exchange and the reason."""


async def renew(js: JetStreamContext, codes: Collection[str], older_than: timedelta = _MAX_AGE) -> list[str]:
    """Write anew the sessions of these exchanges where they are missing or older than that; a line for each.

    Raises:
        SessionsError: those of some could not be made; the others are written.
        nats.errors.Error: the server did not answer, or the bucket is missing.
    """
    there = await read_sessions(js, codes)
    now = datetime.now(UTC)
    old = [code for code in sorted(set(codes)) if code not in there or now - there[code].made_at > older_than]
    if not old:
        return []
    bucket = await js.key_value(SESSIONS_BUCKET)
    made, trouble = await _build_in_subprocess(old)
    for sessions in made:
        await bucket.put(sessions.calendar, encode(sessions))
    if trouble:
        raise SessionsError(f"sessions not made: {trouble}")
    return [f"sessions of {each.calendar}: known until {each.last}" for each in made]


async def renew_forever(bus: Bus, calendars: CalendarWatcher) -> None:
    """Renew the sessions that a clock's jobs need, daily and as soon as any are missing; runs for ever."""
    retry_after: dict[str, float] = {}
    while True:
        calendars.missing.clear()
        now = asyncio.get_running_loop().time()
        # Again at once would be in vain, and costs a few seconds of a core.
        codes = {code for code in calendars.needed if retry_after.get(code, now) <= now}
        try:
            for line in await renew(bus.js, codes):
                log.info("sessions_renewed", what=line)
        except (SessionsError, NatsError, OSError, TimeoutError) as error:
            retry_after |= dict.fromkeys(codes, now + _RETRY_S)
            log.warning("sessions_not_renewed", error=str(error) or type(error).__name__, retry_in_s=_RETRY_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_S):
                await calendars.missing.wait()


async def _build_in_subprocess(codes: Collection[str]) -> tuple[list[TradingSessions], str]:
    """Give the sessions that the process printed, and what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, *codes, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_BUILD_TIMEOUT_S):
            out, said = await process.communicate()
    except TimeoutError:
        return [], f"{', '.join(codes)}: not done after {_BUILD_TIMEOUT_S:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        made = [decode(line, TradingSessions) for line in out.splitlines()]
    except msgspec.MsgspecError as error:
        return [], f"{', '.join(codes)}: {error}"
    return made, "; ".join(said.decode(errors="replace").split("\n")).strip("; ") if process.returncode else ""
