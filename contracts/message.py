"""Base and wire format of every message: flat JSON, a `type` tag that carries the version, unknown fields ignored by readers."""

from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec

UtcInstant = Annotated[datetime, msgspec.Meta(tz=True)]
Text = Annotated[str, msgspec.Meta(max_length=2048)]
SymbolText = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
JobId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_][a-z0-9_-]{0,63}$")]
# The name of a list of symbols that a database holds: watchlist, active, or one that the settings define.
UniverseName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_][a-z0-9_-]{0,63}$")]

# Requests and what we write hold no other members than these. Events that others write have `str` there: a newer version may know
# more, and an older reader lives with it.
Lane = Literal["manual", "live", "backfill"]
Dataset = Literal["bars", "quote", "chain", "iv", "actions"]
Timeframe = Literal["1m", "5m", "15m", "30m", "1h", "1d", "1wk", "1mo"]
Basis = Literal["raw", "split", "split_dividend"]

LANES: tuple[Lane, ...] = ("manual", "live", "backfill")
BASES: tuple[Basis, ...] = ("raw", "split", "split_dividend")
TIMEFRAMES: tuple[Timeframe, ...] = ("1m", "5m", "15m", "30m", "1h", "1d", "1wk", "1mo")


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A message as it crosses the bus. Readers ignore fields they do not know, so a version only ever gains optional fields."""


M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder()


def encode(message: Message) -> bytes:
    """The message as JSON bytes."""
    return _encoder.encode(message)


def decode(body: bytes, kind: type[M]) -> M:
    """Decode the message of one kind in `body`.

    Raises:
        msgspec.ValidationError: the body is no such message; the text names the field.
        msgspec.DecodeError: the body is not JSON, or it is nested too deeply to read.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise msgspec.DecodeError("JSON is nested too deeply") from None
