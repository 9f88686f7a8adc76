"""Exceptions that a message causes: described for people, told from what only has to be waited for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar

import nats.errors
import structlog
from nats.js.errors import BadRequestError

from services.runtime.logs import redact

MAX_TEXT = 1000
# They pass when a server answers again.
UNAVAILABLE: tuple[type[Exception], ...] = (nats.errors.Error, ConnectionError, TimeoutError)
# Subclasses of the former that come again however long one waits.
_NEVER_PASSES = (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.MsgAlreadyAckdError, BadRequestError)
_OURS = ("services", "contracts", "quotebus")
T = TypeVar("T")

log = structlog.get_logger()


def is_wait(error: BaseException, also: tuple[type[Exception], ...] = ()) -> bool:
    """True for an exception that says that something is unavailable for now; `also`: further types of such exceptions."""
    return all(isinstance(each, (*UNAVAILABLE, *also)) and not isinstance(each, _NEVER_PASSES) for each in _leaves(error))


def describe(error: BaseException) -> str:
    """Type and text of an exception, without secrets; of a group, of its first one."""
    first = next(_leaves(error))
    text = redact(str(first))[:MAX_TEXT]
    return f"{type(first).__name__}: {text}" if text else type(first).__name__


def place_of(error: BaseException) -> str:
    """Module, line and function where an exception was raised, or where our code called what raised it."""
    frames = extract_tb(next(_leaves(error)).__traceback__)
    names = [(frame, _module(frame.filename)) for frame in frames]
    known = [(frame, module) for frame, module in names if module.partition(".")[0] in _OURS] or names
    return f"{known[-1][1]}:{known[-1][0].lineno} in {known[-1][0].name}" if known else "an unknown place"


def decode_or_skip(name: str, body: bytes, decode: Callable[[bytes], T]) -> T | None:
    """Decode a stored value, such as an entry of a bucket; one that cannot be decoded is logged and gives None."""
    try:
        return decode(body)
    except Exception as error:  # whatever somebody wrote there must not end the process
        log.warning("value_skipped", name=name, error=describe(error), action="correct or delete it; the others are read")
        return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _module(filename: str) -> str:
    parts = Path(filename).with_suffix("").parts
    first = next((index for index, part in enumerate(parts) if part in _OURS), len(parts) - 1)
    return ".".join(parts[first:])
