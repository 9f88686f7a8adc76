"""Quota streams: the configuration of one ledger window, and the migration of its permits when a limit changes."""

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from datetime import UTC, datetime

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import NotFoundError

from contracts import subjects
from services.runtime.bus import MESSAGE_ID
from services.runtime.quota import SYMBOLS, QuotaWindow

LEDGER_STATE, LEDGER_READY, LEDGER_CARRYING = "quotebus-ledger", "ready", "carrying"

_RETIRED = "quota-retired"
_STREAMS_A_PAGE = 256


def quota_stream_config(window: QuotaWindow, replicas: int, *, ready: bool = True) -> StreamConfig:
    """The stream that is a window's ledger. Until it is `ready` no fetcher spends by it."""
    length = window.length_s + (0 if window.by_date else window.margin_s)
    subject = subjects.quota(window.provider, window.key, window.token)
    symbols = window.window == SYMBOLS
    return StreamConfig(
        name=window.stream,
        subjects=[f"{subject}.*.*" if symbols else f"{subject}.*" if window.by_date else subject],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        # A symbol's second permit is refused as one too many of its subject, which tells that it counts already.
        max_msgs_per_subject=1 if symbols else window.limit,
        max_msgs=window.limit if symbols else -1,
        allow_msg_ttl=symbols,
        allow_atomic=not symbols,
        max_age=length,
        duplicate_window=min(120.0, length),
        deny_delete=True,
        deny_purge=True,
        allow_direct=True,
        storage=StorageType.FILE,
        num_replicas=replicas,
        metadata={LEDGER_STATE: LEDGER_READY if ready else LEDGER_CARRYING},
    )


async def migrate_quota_streams(js: JetStreamContext, ledgers: Iterable[QuotaWindow], replicas: int) -> list[str]:
    """Replace each ledger whose limit changed; give a line for each. May be stopped anywhere and run again.

    Nobody spends meanwhile: the old stream gives up its subject first, the new one is not ready until it holds as many permits
    as were spent (at most its limit). A sliding window's carried permits count from now: they lapse late, never early.
    """
    there = [info async for info in _streams(js) if str(info.config.name).startswith("QUOTA_")]
    done = []
    for window in ledgers:
        old = [info for info in there if _of_another_limit(str(info.config.name), window)]
        if not old:
            continue
        spent = sum([await _retire_and_count(js, info) for info in old], Counter[str]())
        await _create_spent(js, window, spent, replicas)
        for info in old:
            await js.delete_stream(str(info.config.name))
        carried = sum(spent.values())
        done.append(
            f"{window.provider}: {window.limit} {window.describe_limit} from now on; {carried} already spent were carried over"
        )
    return done


async def _streams(js: JetStreamContext) -> AsyncIterator[StreamInfo]:
    offset = 0
    while page := await js.streams_info(offset):
        for info in page:
            yield info
        offset += len(page)
        if len(page) < _STREAMS_A_PAGE:
            return


def _of_another_limit(stream: str, window: QuotaWindow) -> bool:
    # A key may be called like the beginning of another ledger's name.
    return (
        stream != window.stream and stream.startswith(window.stream_prefix) and stream.removeprefix(window.stream_prefix).isdigit()
    )


async def _retire_and_count(js: JetStreamContext, info: StreamInfo) -> Counter[str]:
    """Take the subject away from a ledger, then count its permits by subject: none can come after the count."""
    name = str(info.config.name)
    await js.update_stream(StreamConfig(**{**asdict(info.config), "subjects": [f"{_RETIRED}.{name}"]}))
    return await _permits(js, name)


async def _permits(js: JetStreamContext, stream: str) -> Counter[str]:
    state = (await js.stream_info(stream, subjects_filter=">")).state
    return Counter(state.subjects or {})


async def _create_spent(js: JetStreamContext, window: QuotaWindow, spent: Counter[str], replicas: int) -> None:
    try:
        state = (await js.stream_info(window.stream)).config.metadata or {}
    except NotFoundError:
        await js.add_stream(quota_stream_config(window, replicas, ready=False))
        state = {LEDGER_STATE: LEDGER_CARRYING}
    if state.get(LEDGER_STATE) != LEDGER_CARRYING:
        return
    have = await _permits(js, window.stream)
    room = window.limit - sum(have.values()) if window.window == SYMBOLS else None
    for subject, count in spent.items():
        for _ in range(min(count, window.limit) - have[subject]):
            if room is None or room > 0:
                await js.publish(subject, b"carried over", headers=_identity(window))
                room = None if room is None else room - 1
    await js.update_stream(quota_stream_config(window, replicas))


def _identity(window: QuotaWindow) -> dict[str, str]:
    return {**window.headers(datetime.now(UTC)), MESSAGE_ID: uuid.uuid4().hex}
