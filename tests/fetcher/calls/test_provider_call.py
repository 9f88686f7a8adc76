from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from services.fetcher.calls.safe_fetch import AdapterCrashError, safe_fetch
from services.fetcher.circuit.breaker import QuotaSpentError
from services.fetcher.provider import Answer, Credentials, FetchCall, Http, Profile, ProviderError, Verdict, providers
from services.runtime.jetstream.topology import QuotaWindow
from services.runtime.logs import Redactor
from tests.fetcher.fake_vendor import FakeVendor

KEY = "canary-7f3a"
CALL = FetchCall("quote", ("AAPL", "MSFT"))


class Clumsy:
    """An adapter that ends every call in the way it is told to."""

    profile: ClassVar[Profile] = providers()["tiingo"].profile

    def __init__(self, access: Credentials) -> None:
        self.end: Any = access

    def to_vendor(self, symbol: str) -> str:
        return symbol

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        if isinstance(self.end, Exception):
            raise self.end
        return Answer((), dict.fromkeys(call.symbols, self.end[0]))


async def asked(end: object, call: FetchCall = CALL) -> Answer:
    adapter = Clumsy(Credentials())
    adapter.end = end
    return await safe_fetch(adapter, call, FakeVendor({}), datetime.now(UTC), Redactor([KEY], 8))


async def test_the_words_of_an_error_are_one_line_without_a_key() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(ProviderError) as caught:
        await asked(ProviderError(Verdict.RATE_LIMITED, f"no more\n for {KEY}", at))
    error = caught.value
    assert (error.verdict, error.message, error.retry_at) == (Verdict.RATE_LIMITED, "no more for ***", at)
    assert error.__cause__ is None
    answer = await asked([ProviderError(Verdict.NOT_FOUND, f"not with {KEY}")])
    assert {symbol: error.message for symbol, error in answer.failed.items()} == {"AAPL": "not with ***", "MSFT": "not with ***"}


async def test_an_error_that_says_more_than_its_verdict_stays_what_it_is() -> None:
    with pytest.raises(QuotaSpentError):
        await asked(QuotaSpentError(QuotaWindow("tiingo", "k1", "hour", 50, "UTC"), datetime.now(UTC), "spent"))


async def test_an_adapters_own_fault_is_a_verdict_that_repeats_nothing_of_the_answer() -> None:
    with pytest.raises(AdapterCrashError) as caught:
        await asked(KeyError(f"data of {KEY}"))
    assert caught.value.verdict is Verdict.MALFORMED
    assert caught.value.message == "tiingo: the adapter failed on the answer (KeyError); its log has more"
    assert isinstance(caught.value.__cause__, KeyError)


async def test_what_is_not_offered_reaches_no_adapter() -> None:
    with pytest.raises(ProviderError, match="tiingo has no chain"):
        await asked(KeyError(), FetchCall("chain", ("AAPL",)))
