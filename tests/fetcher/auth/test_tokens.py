"""One renewal at a time, in one process and over replicas that share a store."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from services.fetcher.auth import tokens as module
from services.fetcher.auth.tokens import (
    LEASE,
    AccessTokenManager,
    InMemoryTokenStore,
    Login,
    LoginEndedError,
    TokenResponse,
    Tokens,
    decode_tokens,
    login_state,
)
from services.fetcher.provider import ProviderError, StoredValue, Verdict
from tests.fetcher.fake_vendor import FakeVendor

LASTS = timedelta(minutes=30)
BEGIN = datetime(2024, 3, 15, 8, tzinfo=UTC)
HTTP = FakeVendor({})


class Vendor:
    """A login whose refresh tokens serve once: each grant replaces it, and an older one is dead."""

    def __init__(self, refresh_token: str = "refresh-0", takes_s: float = 0.0) -> None:
        self.valid = refresh_token
        self.asked: list[str] = []
        self.takes_s = takes_s
        self.fault: Exception | None = None
        self.replaces = True

    async def grant(self, _http: Any, refresh_token: str) -> TokenResponse:
        self.asked.append(refresh_token)
        await asyncio.sleep(self.takes_s)
        if self.fault is not None:
            raise self.fault
        if refresh_token != self.valid:
            raise LoginEndedError("log in again")
        number = len(self.asked)
        if self.replaces:
            self.valid = f"refresh-{number}"
        return TokenResponse(f"access-{number}", LASTS, self.valid if self.replaces else "")


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now

    def passes(self, span: timedelta) -> None:
        self.now += span


def manager(
    store: InMemoryTokenStore, vendor: Vendor, clock: Callable[[], datetime], token: str = "refresh-0"
) -> AccessTokenManager:
    return AccessTokenManager(store, Login(token), vendor.grant, clock)


async def kept(store: InMemoryTokenStore) -> Tokens:
    found = decode_tokens((await store.read()).value)
    assert found is not None
    return found


async def test_many_at_once_in_one_process_cost_one_renewal() -> None:
    vendor = Vendor(takes_s=0.01)
    one = manager(InMemoryTokenStore(), vendor, Clock())
    assert set(await asyncio.gather(*(one.access_token(HTTP) for _ in range(20)))) == {"access-1"}
    assert len(vendor.asked) == 1


async def test_many_replicas_at_once_cost_one_renewal() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor(takes_s=0.05), Clock()
    replicas = [manager(store, vendor, clock) for _ in range(5)]
    assert set(await asyncio.gather(*(one.access_token(HTTP) for one in replicas))) == {"access-1"}
    assert vendor.asked == ["refresh-0"]


async def test_a_token_is_renewed_a_minute_before_its_end_with_the_newest_refresh_token() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor(), Clock()
    one, other = manager(store, vendor, clock), manager(store, vendor, clock)
    assert await one.access_token(HTTP) == "access-1"
    clock.passes(LASTS - timedelta(seconds=61))
    assert await one.access_token(HTTP) == "access-1"
    clock.passes(timedelta(seconds=1))
    assert await other.access_token(HTTP) == "access-2"
    assert await one.access_token(HTTP) == "access-2"
    assert vendor.asked == ["refresh-0", "refresh-1"]


async def test_a_refresh_token_that_is_not_replaced_stays() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor(), Clock()
    vendor.replaces = False
    one = manager(store, vendor, clock)
    for _ in range(3):
        await one.access_token(HTTP)
        clock.passes(LASTS)
    assert vendor.asked == ["refresh-0"] * 3


async def test_a_token_that_was_refused_is_renewed_once_whoever_noticed() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor(takes_s=0.02), Clock()
    one, other = manager(store, vendor, clock), manager(store, vendor, clock)
    await one.access_token(HTTP)
    await other.access_token(HTTP)
    calls = [each.access_token(HTTP, refused="access-1") for each in (one, one, other, other)]
    assert set(await asyncio.gather(*calls)) == {"access-2"}
    assert len(vendor.asked) == 2


async def test_a_vendor_that_gives_the_refused_token_again_is_not_asked_for_ever() -> None:
    vendor = Vendor()

    async def same(http: Any, refresh_token: str) -> TokenResponse:
        await vendor.grant(http, refresh_token)
        return TokenResponse("same", LASTS, vendor.valid)

    one = AccessTokenManager(InMemoryTokenStore(), Login("refresh-0"), same, Clock())
    await one.access_token(HTTP)
    assert await asyncio.gather(*(one.access_token(HTTP, refused="same") for _ in range(5))) == ["same"] * 5
    assert len(vendor.asked) == 2


async def test_who_dies_in_the_middle_holds_the_others_up_until_its_lease_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    store, vendor, clock = InMemoryTokenStore(), Vendor(), Clock()
    dying = Tokens(
        login=Login("refresh-0").fingerprint, login_at=BEGIN, refresh_token="refresh-0", lease_holder="x", lease_until=BEGIN + LEASE
    )
    await store.write(msgspec.json.encode(dying), 0)
    waiting = asyncio.create_task(manager(store, vendor, clock).access_token(HTTP))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert not vendor.asked
    clock.passes(LEASE)
    assert await waiting == "access-1"


async def test_who_asked_may_go_and_the_renewal_is_kept_all_the_same() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor(takes_s=0.05), Clock()
    one = manager(store, vendor, clock)
    asking = asyncio.create_task(one.access_token(HTTP))
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await one.access_token(HTTP) == "access-1"
    assert (await kept(store)).refresh_token == "refresh-1"
    assert len(vendor.asked) == 1


async def test_a_failure_that_passes_gives_the_lease_back() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor(), Clock()
    for fault in (ProviderError(Verdict.SERVER_ERROR, "503"), ProviderError(Verdict.RATE_LIMITED, "429"), RuntimeError("a bug")):
        vendor.fault = fault
        with pytest.raises(type(fault)):
            await manager(store, vendor, clock).access_token(HTTP)
        assert not (await kept(store)).is_leased(clock())
    vendor.fault = None
    assert await manager(store, vendor, clock).access_token(HTTP) == "access-4"


async def test_a_login_that_does_not_answer_is_given_up_on_before_its_lease_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.02)
    store, vendor = InMemoryTokenStore(), Vendor(takes_s=5)
    with pytest.raises(ProviderError) as caught:
        await manager(store, vendor, Clock()).access_token(HTTP)
    assert caught.value.verdict is Verdict.TIMEOUT


async def test_a_lease_that_never_ends_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.0)
    store, clock = InMemoryTokenStore(), Clock()
    held = Tokens(
        login=Login("refresh-0").fingerprint,
        login_at=BEGIN,
        refresh_token="refresh-0",
        lease_holder="x",
        lease_until=BEGIN + timedelta(days=1),
    )
    await store.write(msgspec.json.encode(held), 0)

    def hurrying() -> datetime:
        clock.passes(timedelta(seconds=30))
        return clock()

    with pytest.raises(ProviderError) as caught:
        await manager(store, Vendor(), hurrying).access_token(HTTP)
    assert caught.value.verdict is Verdict.TIMEOUT


async def test_a_dead_refresh_token_is_tried_by_one_replica_once() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor("another"), Clock()
    for one in (manager(store, vendor, clock), manager(store, vendor, clock)):
        for _ in range(2):
            with pytest.raises(LoginEndedError):
                await one.access_token(HTTP)
    assert vendor.asked == ["refresh-0"]
    assert (await kept(store)).revoked_reason


async def test_a_new_login_begins_afresh_and_replicas_with_the_old_one_follow_it() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor("another"), Clock()
    old = manager(store, vendor, clock)
    with pytest.raises(LoginEndedError):
        await old.access_token(HTTP)
    clock.passes(timedelta(days=1))
    assert await manager(store, vendor, clock, "another").access_token(HTTP) == "access-2"
    assert await old.access_token(HTTP) == "access-2"
    assert (await kept(store)).login_at == BEGIN + timedelta(days=1)
    assert vendor.asked == ["refresh-0", "another"]


async def test_going_back_to_the_login_before_a_mistaken_one_works() -> None:
    store, vendor, clock = InMemoryTokenStore(), Vendor(), Clock()
    vendor.replaces = False
    await manager(store, vendor, clock).access_token(HTTP)
    with pytest.raises(LoginEndedError):
        await manager(store, vendor, clock, "mistyped").access_token(HTTP)
    assert await manager(store, vendor, clock).access_token(HTTP) == "access-3"


async def test_what_nobody_can_read_is_replaced() -> None:
    store, vendor = InMemoryTokenStore(), Vendor()
    await store.write(b"not ours", 0)
    assert await manager(store, vendor, Clock()).access_token(HTTP) == "access-1"


class Flaky(InMemoryTokenStore):
    """Fails, or lets another be first, on the writes that are named."""

    def __init__(self, silent: set[int], beaten: dict[int, Tokens] | None = None) -> None:
        super().__init__()
        self.silent, self.beaten, self.writes = silent, beaten or {}, 0

    async def write(self, value: bytes, revision: int) -> int | None:
        self.writes += 1
        if self.writes in self.silent:
            raise ProviderError(Verdict.SERVER_ERROR, "the store does not answer")
        if self.writes in self.beaten:
            await super().write(msgspec.json.encode(self.beaten[self.writes]), revision)
            return None
        return await super().write(value, revision)


async def test_a_grant_is_kept_as_soon_as_the_store_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STORE_RETRY_WAITS_S", (0.0, 0.01, 0.01))
    store = Flaky({2, 3})
    assert await manager(store, Vendor(), Clock()).access_token(HTTP) == "access-1"
    assert (await kept(store)).refresh_token == "refresh-1"


async def test_a_grant_that_cannot_be_kept_serves_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STORE_RETRY_WAITS_S", (0.0, 0.0))
    one = manager(Flaky({2, 3}), Vendor(), Clock())
    assert await one.access_token(HTTP) == "access-1"
    assert await one.access_token(HTTP) == "access-1"


async def test_without_the_store_there_is_no_renewal() -> None:
    vendor = Vendor()
    with pytest.raises(ProviderError) as caught:
        await manager(Flaky({1}), vendor, Clock()).access_token(HTTP)
    assert caught.value.verdict is Verdict.SERVER_ERROR
    assert not vendor.asked


async def test_who_took_over_a_lease_gives_way_to_the_grant_that_came_after_all_and_never_the_other_way_round() -> None:
    fingerprint = Login("refresh-0").fingerprint
    taken_over = Tokens(
        login=fingerprint, login_at=BEGIN, refresh_token="refresh-0", lease_holder="y", lease_until=BEGIN + 2 * LEASE
    )
    store = Flaky(set(), {2: taken_over})
    await manager(store, Vendor(), Clock()).access_token(HTTP)
    assert (await kept(store)).refresh_token == "refresh-1"
    newer = Tokens(
        login=fingerprint, login_at=BEGIN, refresh_token="refresh-9", access_token="access-9", access_until=BEGIN + 2 * LASTS
    )
    store = Flaky(set(), {2: newer})
    await manager(store, Vendor(), Clock()).access_token(HTTP)
    assert (await kept(store)).refresh_token == "refresh-9"


async def test_a_store_gives_a_revision_to_one_writer_only() -> None:
    store = InMemoryTokenStore()
    assert await store.write(b"a", 0) == 1
    assert await store.write(b"b", 0) is None
    assert await store.read() == StoredValue(b"a", 1)


def test_tokens_never_show() -> None:
    tokens = Tokens(login="mark", login_at=BEGIN, refresh_token="canary-1", access_token="canary-2")
    assert "canary" not in repr(tokens)
    assert "refresh-0" not in Login("refresh-0").fingerprint


def test_the_end_of_a_login_is_told_a_day_before() -> None:
    week = timedelta(days=7)
    tokens = Tokens(login="mark", login_at=BEGIN, refresh_token="x")
    ends = BEGIN + week
    assert login_state(tokens, week, BEGIN) == ("ok", ends)
    assert login_state(tokens, week, ends - timedelta(hours=24)) == ("ends_soon", ends)
    assert login_state(tokens, week, ends) == ("ended", ends)
    assert login_state(msgspec.structs.replace(tokens, revoked_reason="revoked"), week, BEGIN)[0] == "ended"


def test_tokens_are_stored_under_the_names_that_older_replicas_read() -> None:
    tokens = Tokens(login="x", login_at=BEGIN, refresh_token="r", earlier_logins=["w"], lease_holder="y")
    tokens = msgspec.structs.replace(tokens, lease_until=BEGIN, revoked_reason="z")
    stored = msgspec.json.decode(msgspec.json.encode(tokens))
    assert {"claimed_by": "y", "claimed_until": "2024-03-15T08:00:00Z", "dead": "z"}.items() <= stored.items()
    assert decode_tokens(msgspec.json.encode(stored)) == tokens
