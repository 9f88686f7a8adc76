"""Tokens of a login on a real NATS: replicas that race, die and restart, a login that is dead, and what an operator is told."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from nats.js.api import KeyValueConfig
from nats.js.kv import KeyValue

from contracts import subjects
from contracts.message import decode
from contracts.refresh_request import RefreshRequest
from contracts.run_events import RunResult
from quotebus.embedded import NatsServer
from services.fetcher.accounts import accounts, quotas
from services.fetcher.app import run_workers
from services.fetcher.auth.login_monitor import LOGIN_ENDS, LoginWatch, token_stores
from services.fetcher.auth.token_store import EncryptedTokenStore
from services.fetcher.auth.tokens import AccessTokenManager, Login, LoginEndedError, TokenResponse, Tokens, decode_tokens
from services.fetcher.http.client import open_session
from services.fetcher.provider import Credentials, ProviderError, StoredValue, Verdict
from services.runtime.bus import Bus, connect
from services.runtime.health import Health
from services.runtime.jetstream.provision import drift, provision
from services.runtime.jetstream.topology import topology
from services.runtime.settings import NatsSettings, PostgresSettings, ProviderSettings, Settings
from tests.connected.fetcher.fetcher_harness import stored as messages
from tests.fetcher.fake_vendor import FakeVendor

ACCESS = Credentials(api_key="app-7f3a", api_secret="secret-9b1c", refresh_token="refresh-0")
HTTP = FakeVendor({})


class PlayedSchwab:
    """Schwab with refresh tokens that serve once, and access tokens that may be ended."""

    def __init__(self) -> None:
        self.url = ""
        self.refresh_token = "refresh-0"
        self.access_token = ""
        self.seen: Counter[str] = Counter()
        self.logins = 0
        self.answers = asyncio.Event()
        self.answers.set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["PlayedSchwab"]:
        application = web.Application()
        application.router.add_post("/v1/oauth/token", self._login)
        application.router.add_get("/marketdata/v1/quotes", self._quotes)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _login(self, request: web.Request) -> web.Response:
        token = str((await request.post())["refresh_token"])
        self.seen[token] += 1
        await asyncio.sleep(0.05)
        await self.answers.wait()
        if token != self.refresh_token:
            return web.json_response({"error": "unsupported_token_type", "error_description": "400 Bad Request"}, status=400)
        self.logins += 1
        self.refresh_token, self.access_token = f"refresh-{self.logins}", f"access-{self.logins}"
        return web.json_response({"access_token": self.access_token, "refresh_token": self.refresh_token, "expires_in": 1800})

    async def _quotes(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {self.access_token}":
            return web.json_response({"errors": [{"id": "1", "status": 401, "title": "Unauthorized"}]}, status=401)
        found = {symbol: {"symbol": symbol, "quote": {"lastPrice": 20.5}} for symbol in request.query["symbols"].split(",")}
        return web.json_response(found)


@pytest.fixture
async def schwab() -> AsyncIterator[PlayedSchwab]:
    async with PlayedSchwab().serve() as played:
        yield played


@pytest.fixture
async def bucket(bus: Bus) -> KeyValue:
    return await bus.js.create_key_value(KeyValueConfig(bucket=subjects.TOKENS_BUCKET, history=1))


def settings_for(nats_url: str, schwab: PlayedSchwab, refresh_token: str = "refresh-0") -> Settings:
    account = ProviderSettings(
        base_url=schwab.url, api_key="app-7f3a", api_secret="secret-9b1c", refresh_token=refresh_token, per_minute=0
    )
    return Settings(
        nats=NatsSettings(url=nats_url),
        postgres=PostgresSettings(dsn="postgresql://nobody@127.0.0.1:1/none"),
        providers={"schwab": account},
    )


@asynccontextmanager
async def fetching(settings: Settings) -> AsyncIterator[Bus]:
    """One replica of the fetcher, on a connection of its own."""
    known = accounts(settings)
    async with connect(settings.nats, "fetcher") as bus:
        await provision(bus.js, topology(settings, quotas(settings)))
        async with open_session() as session, run_workers(settings, known, bus, session, Health("fetcher")):
            yield bus


async def outcomes(bus: Bus, count: int) -> list[RunResult]:
    found: list[RunResult] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            await asyncio.sleep(0.05)
            last = (await bus.js.stream_info(subjects.RUNS)).state.last_seq
            raw = [await bus.js.get_msg(subjects.RUNS, seq=sequence) for sequence in range(1, last + 1)]
            found = [decode(each.data or b"", RunResult) for each in raw if (each.subject or "").startswith("run.result")]
    return found


async def stored(bucket: KeyValue) -> Tokens:
    found = decode_tokens((await EncryptedTokenStore(bucket, "schwab", ACCESS).read()).value)
    assert found is not None
    return found


# The bucket


async def test_what_is_written_is_read_by_who_has_the_secret_and_by_nobody_else(bucket: KeyValue):
    store = EncryptedTokenStore(bucket, "schwab", ACCESS)
    assert await store.read() == StoredValue()
    revision = await store.write(b'{"refresh_token":"canary-7f3a"}', 0)
    assert await store.read() == StoredValue(b'{"refresh_token":"canary-7f3a"}', revision)
    [name] = await bucket.keys()
    sealed = (await bucket.get(name)).value or b""
    assert b"canary" not in sealed
    assert "app-7f3a" not in name
    other = EncryptedTokenStore(bucket, "schwab", Credentials(api_key="app-7f3a", api_secret="another"))
    assert await other.read() == StoredValue(b"", revision)
    assert revision is not None
    assert await other.write(b"anew", revision) is not None


async def test_one_of_two_writers_of_a_revision_is_told_no(bucket: KeyValue):
    stores = [EncryptedTokenStore(bucket, "schwab", ACCESS) for _ in range(8)]
    for _ in range(5):
        revision = (await stores[0].read()).revision
        given = await asyncio.gather(*(store.write(b"mine", revision) for store in stores))
        assert sum(each is not None for each in given) == 1


async def test_a_deleted_or_damaged_entry_is_written_anew(bucket: KeyValue):
    store = EncryptedTokenStore(bucket, "schwab", ACCESS)
    await store.write(b"old", 0)
    [name] = await bucket.keys()
    await bucket.delete(name)
    gone = await store.read()
    assert gone.value == b""
    assert await store.write(b"new", gone.revision)
    await bucket.put(name, b"short")
    assert (await store.read()).value == b""


async def test_another_application_has_tokens_of_its_own(bucket: KeyValue):
    await EncryptedTokenStore(bucket, "schwab", ACCESS).write(b"one", 0)
    assert (
        await EncryptedTokenStore(bucket, "schwab", Credentials(api_key="app-2", api_secret="secret-9b1c")).read() == StoredValue()
    )


async def test_a_store_that_does_not_answer_is_an_error_of_the_server(bus: Bus, bucket: KeyValue):
    store = EncryptedTokenStore(bucket, "schwab", ACCESS)
    await bus.js.delete_key_value(subjects.TOKENS_BUCKET)
    for asking in (store.read(), store.write(b"x", 0)):
        try:
            assert await asking == StoredValue()  # a bucket that is gone has nothing in it
        except ProviderError as error:
            assert error.verdict is Verdict.SERVER_ERROR


# Replicas


async def test_two_replicas_that_race_renew_once(nats_url: str, bucket: KeyValue):
    asked: list[str] = []

    async def grant(_http: Any, refresh_token: str) -> TokenResponse:
        asked.append(refresh_token)
        await asyncio.sleep(0.2)
        return TokenResponse(f"access-{len(asked)}", timedelta(minutes=30), f"refresh-{len(asked)}")

    async with connect(NatsSettings(url=nats_url), "one") as one, connect(NatsSettings(url=nats_url), "other") as other:
        keepers = []
        for replica in (one, other):
            store = EncryptedTokenStore(await replica.js.key_value(subjects.TOKENS_BUCKET), "schwab", ACCESS)
            keepers.append(AccessTokenManager(store, Login("refresh-0"), grant))
        first = await asyncio.gather(*(keeper.access_token(HTTP) for keeper in keepers for _ in range(5)))
        again = await asyncio.gather(*(keeper.access_token(HTTP, refused="access-1") for keeper in keepers for _ in range(5)))
    assert (set(first), set(again)) == ({"access-1"}, {"access-2"})
    assert asked == ["refresh-0", "refresh-1"]


async def test_two_fetchers_serve_tasks_with_one_login_also_after_the_token_was_ended(nats_url: str, schwab: PlayedSchwab):
    settings = settings_for(nats_url, schwab)
    async with fetching(settings) as bus, fetching(settings):
        for round_, symbols in enumerate((["A", "B", "C"], ["D", "E", "F"])):
            requests = [RefreshRequest(symbols=[symbol], dataset="quote", provider="schwab") for symbol in symbols]
            await asyncio.gather(*(bus.publish("refresh.request.live", request) for request in requests))
            results = await outcomes(bus, 3 * (round_ + 1))
            schwab.access_token = "ended on the vendor's side"
        assert {result.outcome for result in results} == {"refreshed"}
        assert await drift(bus.js, topology(settings, quotas(settings))) == []
    assert schwab.seen == {"refresh-0": 1, "refresh-1": 1}


async def test_a_restarted_fetcher_goes_on_with_what_is_kept(nats_url: str, schwab: PlayedSchwab):
    settings = settings_for(nats_url, schwab)
    for count, symbol in enumerate("AB", 1):
        async with fetching(settings) as bus:
            await bus.publish("refresh.request.manual", RefreshRequest(symbols=[symbol], dataset="quote", provider="schwab"))
            results = await outcomes(bus, count)
    assert {result.outcome for result in results} == {"refreshed"}
    assert schwab.logins == 1


RENEWING = """
import asyncio, sys
from datetime import timedelta
from nats.aio.client import Client
import nats
from services.fetcher.http.client import MeteredHttp, open_session, no_permit_needed
from services.fetcher.provider import Credentials
from services.fetcher.providers.schwab.auth import token_manager
from services.fetcher.auth.token_store import EncryptedTokenStore

async def main():
    nats_url, schwab_url = sys.argv[1:]
    nc = await nats.connect(nats_url)
    access = Credentials(api_key="app-7f3a", api_secret="secret-9b1c", refresh_token="refresh-0")
    store = EncryptedTokenStore(await nc.jetstream().key_value("tokens"), "schwab", access)
    access = Credentials(api_key="app-7f3a", api_secret="secret-9b1c", refresh_token="refresh-0", tokens=store)
    async with open_session() as session:
        await token_manager(access).access_token(MeteredHttp(session, schwab_url, no_permit_needed, 30, 10**6))

asyncio.run(main())
"""


async def test_a_replica_that_is_killed_in_the_middle_of_a_renewal_is_succeeded_when_its_claim_ends(
    nats_url: str, bucket: KeyValue, schwab: PlayedSchwab, monkeypatch: pytest.MonkeyPatch
):
    schwab.answers.clear()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RENEWING, nats_url, schwab.url, cwd=Path(__file__).parents[4]
    )
    async with asyncio.timeout(20):
        while not schwab.seen:
            await asyncio.sleep(0.02)
    process.kill()
    await process.wait()
    schwab.answers.set()
    claim = await stored(bucket)
    assert claim.is_leased(datetime.now(UTC))

    late = timedelta()
    asked: list[str] = []

    async def grant(_http: Any, refresh_token: str) -> TokenResponse:
        asked.append(refresh_token)
        return TokenResponse("access-1", timedelta(minutes=30), "refresh-1")

    successor = AccessTokenManager(
        EncryptedTokenStore(bucket, "schwab", ACCESS), Login("refresh-0"), grant, lambda: datetime.now(UTC) + late
    )
    waiting = asyncio.create_task(successor.access_token(HTTP))
    await asyncio.sleep(0.5)
    assert not asked
    late = timedelta(seconds=61)
    assert await waiting == "access-1"
    assert (await stored(bucket)).refresh_token == "refresh-1"


async def test_nats_may_be_killed_while_a_token_is_renewed(nats_server: NatsServer, bucket: KeyValue):
    renewing = asyncio.Event()

    async def grant(_http: Any, _refresh_token: str) -> TokenResponse:
        renewing.set()
        await asyncio.sleep(0.3)
        return TokenResponse("access-1", timedelta(minutes=30), "refresh-1")

    keeper = AccessTokenManager(EncryptedTokenStore(bucket, "schwab", ACCESS), Login("refresh-0"), grant)
    waiting = asyncio.create_task(keeper.access_token(HTTP))
    await renewing.wait()
    await nats_server.kill()
    await nats_server.start()
    assert await waiting == "access-1"
    assert (await stored(bucket)).refresh_token == "refresh-1"


async def test_a_dead_login_stops_the_provider_after_one_request_of_all_replicas_and_a_new_one_starts_it(
    nats_url: str, schwab: PlayedSchwab
):
    schwab.refresh_token = "refresh-of-a-new-login"
    settings = settings_for(nats_url, schwab)
    async with fetching(settings) as bus, fetching(settings):
        for symbol in "AB":
            await bus.publish("refresh.request.manual", RefreshRequest(symbols=[symbol], dataset="quote", provider="schwab"))
        results = await outcomes(bus, 2)
        state = json.loads((await (await bus.js.key_value("state")).get(subjects.key_state("schwab", "k1"))).value or b"")
    assert {(result.outcome, result.reason) for result in results} == {("failed", "unauthorized")}
    assert (state["state"], "log in again" in state["reason"]) == ("stopped", True)
    assert schwab.seen == {"refresh-0": 1}
    async with connect(NatsSettings(url=nats_url), "test") as bus:
        stores = await token_stores(bus.js, accounts(settings))
        kept = await stores["schwab", "k1"].read()
        assert (tokens := decode_tokens(kept.value)) is not None
        assert tokens.revoked_reason
        renewed = accounts(settings_for(nats_url, schwab, "refresh-of-a-new-login"))["schwab"]
        assert renewed.with_token_store(stores).keys[0].provider.profile.name == "schwab"
        keeper = AccessTokenManager(stores["schwab", "k1"], Login("refresh-of-a-new-login"), _granted)
        assert await keeper.access_token(HTTP) == "access-of-a-new-login"


async def _granted(_http: Any, refresh_token: str) -> TokenResponse:
    if refresh_token != "refresh-of-a-new-login":
        raise LoginEndedError("log in again")
    return TokenResponse("access-of-a-new-login", timedelta(minutes=30))


# What an operator is told


async def keep(bucket: KeyValue, tokens: Tokens) -> None:
    store = EncryptedTokenStore(bucket, "schwab", ACCESS)
    await store.write(msgspec.json.encode(tokens), (await store.read()).revision)


def login(ago: timedelta, dead: str = "") -> Tokens:
    return Tokens(
        login=Login("refresh-0").fingerprint, login_at=datetime.now(UTC) - ago, refresh_token="refresh-0", revoked_reason=dead
    )


async def test_the_end_of_a_login_is_a_metric_and_one_state_however_many_watch(
    bus: Bus, bucket: KeyValue, nats_url: str, schwab: PlayedSchwab
):
    state = await bus.js.create_key_value(KeyValueConfig(bucket=subjects.STATE_BUCKET, history=10))
    known = accounts(settings_for(nats_url, schwab))
    stores = await token_stores(bus.js, known)
    watches = [LoginWatch(state, known, stores) for _ in range(2)]

    async def told() -> list[str]:
        for _ in range(2):
            for watch in watches:
                await watch.look("schwab", "k1")
        # Not by the bucket's history(), which may end before what came last.
        bodies = await messages(bus, f"KV_{subjects.STATE_BUCKET}", f"$KV.{subjects.STATE_BUCKET}.login.schwab.k1")
        return [json.loads(body)["state"] for body in bodies]

    assert await told() == []
    await keep(bucket, login(timedelta(days=2)))
    assert await told() == []
    ends = LOGIN_ENDS.labels("schwab", "k1")._value.get()
    assert timedelta(days=4.9) < datetime.fromtimestamp(ends, UTC) - datetime.now(UTC) < timedelta(days=5.1)
    await keep(bucket, login(timedelta(days=6, hours=1)))
    assert await told() == ["login_ends_soon"]
    await keep(bucket, login(timedelta(days=6, hours=1), dead="schwab: log in again"))
    assert await told() == ["login_ends_soon", "login_ended"]
    assert LOGIN_ENDS.labels("schwab", "k1")._value.get() == 0
    await keep(bucket, login(timedelta(hours=1)))
    assert await told() == ["login_ends_soon", "login_ended", "login_ok"]
