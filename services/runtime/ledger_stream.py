"""The stream that is a window's ledger."""

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from contracts import subjects
from services.runtime.quota_windows import SYMBOLS, QuotaWindow

LEDGER_STATE, LEDGER_READY, LEDGER_CARRYING = "quotebus-ledger", "ready", "carrying"


def ledger_stream(window: QuotaWindow, replicas: int, *, ready: bool = True) -> StreamConfig:
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
