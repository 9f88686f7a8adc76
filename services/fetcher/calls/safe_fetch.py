"""Safe fetch: calls an adapter, and every outcome is an answer or a redacted error, also when the adapter crashes."""

from dataclasses import replace
from datetime import datetime

from services.fetcher.provider import (
    Answer,
    FetchCall,
    Http,
    LedgerError,
    Provider,
    ProviderError,
    Verdict,
    refuse_unoffered,
)
from services.runtime.logs import Redactor


class AdapterCrashError(ProviderError):
    """The adapter itself failed, which no answer should bring about: the cause is the bug."""


async def safe_fetch(provider: Provider, call: FetchCall, http: Http, now: datetime, redact: Redactor) -> Answer:
    """Fetch a call's answer from the adapter; its errors become one line each, with the secrets of `redact` removed.

    Raises:
        ProviderError: the call as a whole failed; an `AdapterCrashError` if the adapter did.
        LedgerError: the ledger gives no answer, so nothing was asked.
    """
    try:
        refuse_unoffered(provider.profile, call)
        answer = await provider.fetch(call, http, now)
    except ProviderError as error:
        raise _redacted(error, redact) from None
    except LedgerError:
        raise
    except Exception as error:
        fault = f"{provider.profile.name}: the adapter failed on the answer ({type(error).__name__}); its log has more"
        raise AdapterCrashError(Verdict.MALFORMED, fault) from error
    return replace(answer, failed={symbol: _redacted(error, redact) for symbol, error in answer.failed.items()})


def _redacted(error: ProviderError, redact: Redactor) -> ProviderError:
    message = redact.text(" ".join(error.message.split()))
    # The very same error where it can stay: it may be of a kind that says more.
    return error if message == error.message else ProviderError(error.verdict, message, error.retry_at, renamed_to=error.renamed_to)
