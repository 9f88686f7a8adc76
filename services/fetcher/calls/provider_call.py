"""Provider call: pace, permit and HTTP around an adapter, and what its outcome teaches about key and limits."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from prometheus_client import Histogram

from contracts.message import Lane
from services.fetcher.accounts import ApiKey, ProviderAccount
from services.fetcher.calls.safe_fetch import AdapterCrashError, safe_fetch
from services.fetcher.circuit.breaker import KeyCircuit
from services.fetcher.provider import (
    Answer,
    FetchCall,
    Http,
    LedgerError,
    ProviderError,
    Reply,
    Verdict,
)
from services.fetcher.quota.ledger import QuotaLedger
from services.fetcher.quota.observed_limits import ObservedLimits, ResponseObserver
from services.fetcher.quota.pacer import Pacer
from services.fetcher.retry_policy import RETRY_POLICIES, Scope

CALL_SECONDS = Histogram("quotebus_provider_call_seconds", "Duration of a call, all its requests.", ["provider", "verdict"])

AcquirePermit = Callable[[int], Awaitable[None]]
HttpFactory = Callable[[AcquirePermit, AcquirePermit, Callable[[Reply], None]], Http]

log = structlog.get_logger()


@dataclass(frozen=True)
class CallResult:
    """Result of a call: an answer, or an `error` of the call as a whole; and the permits it took."""

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
