"""Provider call: pace, permit and HTTP around an adapter, with every outcome an answer or a redacted error."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from prometheus_client import Histogram

from contracts.message import Lane
from services.fetcher.accounts import ApiKey, ProviderAccount
from services.fetcher.circuit.breaker import KeyCircuit
from services.fetcher.provider import (
    Answer,
    FetchCall,
    Http,
    LedgerError,
    Provider,
    ProviderError,
    Reply,
    Verdict,
    refuse_unoffered,
)
from services.fetcher.quota.ledger import QuotaLedger
from services.fetcher.quota.observed_limits import ObservedLimits, ResponseObserver
from services.fetcher.quota.pacer import Pacer
from services.fetcher.retry_policy import RETRY_POLICIES, Scope
from services.runtime.logs import Redactor

CALL_SECONDS = Histogram("quotebus_provider_call_seconds", "Duration of a call, all its requests.", ["provider", "verdict"])

AcquirePermit = Callable[[int], Awaitable[None]]
HttpFactory = Callable[[AcquirePermit, AcquirePermit, Callable[[Reply], None]], Http]

log = structlog.get_logger()


class AdapterCrashError(ProviderError):
    """The adapter itself failed, which no answer should bring about: the cause is the bug."""


async def safe_fetch(provider: Provider, call: FetchCall, http: Http, now: datetime, redact: Redactor) -> Answer:
    """What the provider answers; its errors in one line each, without the keys that `redact` knows.

    Raises:
        ProviderError: the call as a whole failed; an `AdapterFaultError` if the adapter did.
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


@dataclass(frozen=True)
class CallResult:
    """What a call brought: an answer, or an `error` of the call as a whole; and the permits it took."""

    answer: Answer
    error: ProviderError | None
    permits: int


@dataclass(frozen=True)
class ProviderClient:
    """Makes calls with one key. `http` makes a call's client, given how to take permits, how to keep the pace, and who listens."""

    account: ProviderAccount
    key: ApiKey
    ledger: QuotaLedger
    pace: Pacer
    circuit: KeyCircuit
    learner: ObservedLimits
    http: HttpFactory

    async def wait_for_pace(self) -> None:
        """Return when the next call may leave, as far as the pace is concerned."""
        self.pace.factor = self.circuit.state.pace_at(datetime.now(UTC))
        await self.pace.wait_for_turn()

    async def call(self, call: FetchCall, lane: Lane, called_at: datetime) -> CallResult:
        """Make one call whose turn it is. A fault of the adapter is an error of the call too.

        Raises:
            LedgerError: the ledger gives no answer; nothing was called, or what came is not told.
        """
        heard = ResponseObserver()
        answered = await self._ask(call, lane, called_at, heard)
        error = answered.error
        if error is not None and error.verdict is Verdict.RATE_LIMITED and error.retry_at is None and heard.retry_at:
            error = ProviderError(error.verdict, error.message, heard.retry_at)
        # What concerns the key counts even if only some symbols of a call met it.
        partly = next((e for e in answered.answer.failed.values() if RETRY_POLICIES[e.verdict].scope is Scope.KEY), None)
        if error is None and partly is None and heard.throttled:
            partly = ProviderError(Verdict.RATE_LIMITED, f"{self.account.name}: too many requests", heard.retry_at)
        if refused := error or partly:
            await self.circuit.record_failure(refused, called_at)
        else:
            await self.circuit.record_success(called_at)
        await self.learner.observe(heard.allowances, called_at)
        return replace(answered, error=error)

    async def _ask(self, call: FetchCall, lane: Lane, called_at: datetime, heard: ResponseObserver) -> CallResult:
        clock = asyncio.get_running_loop().time
        started, verdict, spent, requests = clock(), "ok", 0, 0

        async def permit(cost: int) -> None:
            nonlocal spent
            await self.ledger.acquire(cost, lane)
            spent += cost

        async def pace(cost: int) -> None:
            # The worker paced one permit of the first request; all else of the call waits its turn here.
            nonlocal requests
            requests += 1
            if owed := cost - (requests == 1):
                await self.pace.wait_for_turn(owed)

        try:
            http = self.http(permit, pace, heard.observe)
            answer = await safe_fetch(self.key.provider, call, http, called_at, self.account.egress_policy.redact)
            return CallResult(answer, None, spent)
        except ProviderError as error:
            verdict = error.verdict
            if isinstance(error, AdapterCrashError):
                log.exception("adapter_failed", provider=self.account.name, dataset=call.dataset, exc_info=error.__cause__)
            return CallResult(Answer(), error, spent)
        except LedgerError:
            verdict = "no_permit"
            raise
        finally:
            CALL_SECONDS.labels(self.account.name, verdict).observe(clock() - started)
