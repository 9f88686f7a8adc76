"""The choice of a provider: pure rules over adapters made up for it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.fetch_task import FetchTask
from contracts.symbol_health import SymbolHealth
from services.fetcher.accounts import ProviderAccount
from services.fetcher.provider import Answer, FetchCall, Http, Profile
from services.fetcher.routing.router import (
    Availability,
    NoHealthyProvider,
    NoProviderError,
    ProviderSelection,
    SelectedProvider,
    candidates,
)
from services.runtime.settings import ProviderSettings

NOW = datetime(2026, 1, 5, tzinfo=UTC)


class Vendor:
    """An adapter that only has a profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile  # type: ignore[misc]

    def to_vendor(self, symbol: str) -> str:
        return symbol

    async def fetch(self, call: FetchCall, http: Http, now: datetime) -> Answer:
        raise AssertionError("nobody is asked here")


def account(
    name: str, *, basis: Any = "raw", feed: str = "eod", real: bool = True, per_call: int = 1, **settings: Any
) -> ProviderAccount:
    profile = Profile(name, "https://x", {"bars": ("1d",)}, basis, feed, real=real, symbols_per_call={"bars": per_call})
    return ProviderAccount(profile, ProviderSettings(**settings), Vendor(profile))  # type: ignore[arg-type]


def task(**changes: Any) -> FetchTask:
    wish: dict[str, Any] = {"provider": "", "lane": "live", "symbol": "A", "dataset": "bars", "timeframe": "1d"}
    wish |= {"wanted_at": NOW, "expires_at": NOW, "request_id": "r", "run_id": "1"}
    return FetchTask(**(wish | changes))


def names(*accounts: ProviderAccount, asked: str | None = None, **changes: Any) -> list[str]:
    return [found.name for found in candidates({a.name: a for a in accounts}, task(**changes), asked)]


def dead(provider: str, hours: float = 1, verdict: str = "not_found") -> SymbolHealth:
    return SymbolHealth(
        provider=provider, dataset="bars", timeframe="1d", symbol="A", state="suspect", since=NOW, at=NOW, failures=1,
        verdict=verdict, next_probe_at=NOW + timedelta(hours=hours),
    )  # fmt: skip


def choice(
    *accounts: ProviderAccount,
    standings: Mapping[str, Availability] | None = None,
    asleep: Mapping[str, SymbolHealth] | None = None,
) -> ProviderSelection:
    known = {a.name: Availability() for a in accounts} | dict(standings or {})
    return ProviderSelection(
        "bars", accounts, known, lambda provider, symbol: (asleep or {}).get(provider) if symbol == "A" else None
    )


def chosen(found: SelectedProvider | NoHealthyProvider) -> tuple[str, list[str], str | None]:
    assert isinstance(found, SelectedProvider)
    return found.account.name, list(found.instead_of), found.reason


def test_priority_comes_first_then_the_price_of_a_symbol_then_the_name():
    first = account("z", priority=1, cost=9.0)
    assert names(account("b"), account("a"), account("c", cost=0.1), first) == ["z", "a", "b", "c"]
    dear_call_of_many = account("many", cost=1.0, per_call=100)
    assert names(account("one", cost=0.02), dear_call_of_many) == ["many", "one"]


def test_only_the_same_basis_and_feed_stand_in_for_the_first_choice():
    others = account("split", basis="split"), account("delayed", feed="delayed"), account("alike")
    assert names(account("first", priority=1), *others) == ["first", "alike"]


def test_a_made_up_market_never_stands_in_for_a_real_one():
    made_up = account("made_up", priority=0, real=False)
    assert names(made_up, account("real")) == ["real"]
    assert names(made_up) == ["made_up"]


def test_a_provider_asked_for_by_name_has_no_stand_in():
    assert names(account("a"), account("b"), asked="b") == ["b"]
    with pytest.raises(NoProviderError, match="did you mean alpha"):
        names(account("alpha"), asked="alpah")
    with pytest.raises(NoProviderError, match="no enabled provider has 1d bars"):
        names(account("a"), tried=["a"])


def test_who_rests_is_passed_over_and_the_choice_says_for_whom_and_why():
    a, b, c = account("a"), account("b"), account("c")
    standings = {"a": Availability(blocked_state="breaker_open"), "b": Availability(blocked_state="cooling_down")}
    assert chosen(choice(a, b, c, standings=standings).of("A")) == ("c", ["a", "b"], "breaker_open")
    assert chosen(choice(a, b, c).of("A")) == ("a", [], None)


def test_when_all_rest_the_task_waits_for_the_first():
    a, b = account("a"), account("b")
    assert chosen(choice(a, b, standings={name: Availability(blocked_state="stopped") for name in "ab"}).of("A")) == ("a", [], None)


def test_what_is_left_of_a_day_is_given_away_once_and_then_the_next_one_is_asked():
    shared_out = choice(account("a", per_call=2), account("b"), standings={"a": Availability(calls_left=2)})
    given = [chosen(shared_out.of(symbol)) for symbol in "VWXYZ"]
    assert given == [("a", [], None)] * 4 + [("b", ["a"], "quota_spent")]


def test_a_symbol_that_one_does_not_have_is_asked_of_the_other_and_only_that_symbol():
    found = choice(account("a"), account("b"), asleep={"a": dead("a")})
    assert chosen(found.of("A")) == ("b", ["a"], "not_found")
    assert chosen(found.of("OTHER")) == ("a", [], None)


def test_a_symbol_that_nobody_has_is_skipped_until_the_first_probe_unless_somebody_insists():
    found = choice(account("a"), account("b"), asleep={"a": dead("a", hours=6), "b": dead("b", verdict="plan_restricted")})
    assert found.of("A") == NoHealthyProvider(dead("b", verdict="plan_restricted"))
    assert chosen(found.of("A", always=True)) == ("a", [], None)


def test_a_provider_that_rests_and_may_have_it_is_rather_waited_for_than_one_asked_that_does_not_have_it():
    found = choice(account("a"), account("b"), standings={"b": Availability(blocked_state="cooling_down")}, asleep={"a": dead("a")})
    assert chosen(found.of("A")) == ("b", ["a"], "not_found")


def test_the_ready_are_those_that_can_make_a_call_now():
    a, b = account("a"), account("b")
    ready = choice(a, b, standings={"a": Availability(calls_left=0)}).ready()
    assert ready is not None
    assert chosen(ready.of("A")) == ("b", [], None)
    assert choice(a, standings={"a": Availability(blocked_state="quota_spent")}).ready() is None
