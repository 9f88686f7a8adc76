"""The bucket `sessions`: what is known of each exchange's sessions."""

from collections.abc import Iterable

import msgspec
import structlog
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError

from contracts.message import decode
from contracts.subjects import SESSIONS_BUCKET
from contracts.trading_sessions import TradingSessions
from services.runtime.schedules.sessions import Calendar

SESSIONS_STREAM = f"KV_{SESSIONS_BUCKET}"

log = structlog.get_logger()


async def read_sessions(js: JetStreamContext, codes: Iterable[str]) -> dict[str, TradingSessions]:
    """The sessions of those of these exchanges that the bucket has.

    Raises:
        nats.errors.Error: the server did not answer, or the bucket is missing.
    """
    found: dict[str, TradingSessions] = {}
    if not (wanted := sorted(set(codes))):
        return found
    bucket = await js.key_value(SESSIONS_BUCKET)
    for code in wanted:
        try:
            found[code] = decode((await bucket.get(code)).value or b"", TradingSessions)
        except KeyNotFoundError:
            continue
        except msgspec.MsgspecError as error:
            log.warning("sessions_malformed", calendar=code, error=str(error), action="they are made anew")
    return found


async def read_calendars(js: JetStreamContext, codes: Iterable[str]) -> dict[str, Calendar]:
    """The same, as schedules ask them."""
    return {code: Calendar(known) for code, known in (await read_sessions(js, codes)).items()}
