"""The fetcher: one planner, one worker per provider, the desk for asks, the sweeper."""

import asyncio
import difflib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import structlog
from faststream import FastStream
from faststream.nats import NatsBroker
from faststream.nats.annotations import NatsMessage

from contracts import subjects
from contracts.message import encode
from services.fetcher.accounts import ApiKey, ProviderAccount, accounts
from services.fetcher.auth.login_monitor import TOKENS_STREAM, LoginWatch, token_stores, with_logins
from services.fetcher.calls.provider_call import AcquirePermit, HttpFactory
from services.fetcher.circuit.key_state import KeyStateStore
from services.fetcher.circuit.upgrade import resume_paused_consumers
from services.fetcher.derived.provider import PROFILE as DERIVED
from services.fetcher.derived.provider import Derived
from services.fetcher.http.client import MeteredHttp, open_session
from services.fetcher.http.egress_policy import check_base_url
from services.fetcher.on_fetch_task import WorkerFactory, provider_circuit
from services.fetcher.on_plan_ask import PlanAskHandler
from services.fetcher.on_refresh_ask import RefreshAskHandler
from services.fetcher.on_refresh_request import WAITS, Planner
from services.fetcher.planning.universe import Universe
from services.fetcher.provider import Http, LedgerError, Reply, providers
from services.fetcher.routing.router import Router
from services.fetcher.routing.symbol_health import ProbePolicy, SymbolHealthStore
from services.fetcher.tasks.coalesced import BATCH_TASKS, CoalescedTasks
from services.fetcher.tasks.orphans import OrphanReaper
from services.runtime.bus import Bus, check_clock_skew, connect
from services.runtime.consumer import Consumer, ConsumerOptions, FailurePolicy
from services.runtime.dead_letters import DeadLetters
from services.runtime.health import Health
from services.runtime.jetstream.provision import wait_until_provisioned
from services.runtime.jetstream.topology import COALESCER, PLANNER
from services.runtime.puller import Puller
from services.runtime.service import ServiceApp, StartRefusedError, request_reply_broker, supervise
from services.runtime.settings import FIRST_KEY, Settings

ASKS_AT_ONCE = 64
PLANNER_GRACE_S = 2.5
STREAMS = [subjects.REFRESH, subjects.TASKS, subjects.WAITING, subjects.PRICES, subjects.RUNS, subjects.SYMBOLS, subjects.DEAD]

log = structlog.get_logger()


def build(settings: Settings) -> FastStream:
    """The fetcher's application."""
    _refuse_unknown(settings)
    health = Health("fetcher")
    broker = request_reply_broker(settings, health)
    desk, plans = RefreshAskHandler(), PlanAskHandler(settings)
    _subscribe_asks(broker, desk, plans)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        known = accounts(settings)
        async with (
            health.serve(settings.health),
            connect(settings.nats, "fetcher") as bus,
            open_session() as session,
            run_workers(settings, known, bus, session, health),
        ):
            desk.open(bus)
            plans.open(bus)
            health.ready("asks", False, "it does not listen for asks yet")
            log.info("fetcher_ready", providers=sorted(known))
            yield

    async def listening() -> None:
        # Whoever asks as soon as it is ready must find somebody: the server has to know of the subscriptions.
        await (await broker.connect()).flush()
        health.ready("asks", True)

    service = ServiceApp(broker, lifespan=lifespan, logger=None)
    service.after_startup(listening)
    return service


def _refuse_unknown(settings: Settings) -> None:
    for name in settings.providers:
        if name not in providers():
            near = difflib.get_close_matches(name, providers(), 1)
            hint = f"did you mean providers.{near[0]}?" if near else f"there are {', '.join(sorted(providers()))}"
            raise StartRefusedError(f"providers.{name}: there is no such provider; {hint}")
    try:
        known = accounts(settings)
    except ValueError as error:
        raise StartRefusedError(f"providers: {error}") from None
    for name, account in known.items():
        try:
            check_base_url(account.base_url, account.egress_policy)
        except ValueError as error:
            raise StartRefusedError(f"providers.{name}.{error}") from None


def _subscribe_asks(broker: NatsBroker, desk: RefreshAskHandler, plans: PlanAskHandler) -> None:
    @broker.subscriber(subjects.REFRESH_ASK, queue="ask", max_workers=ASKS_AT_ONCE)
    async def on_refresh_ask(msg: NatsMessage) -> bytes:
        return encode(await desk.on_refresh_ask(msg.body))

    @broker.subscriber(subjects.PLAN_ASK, queue="ask")
    async def on_plan_ask(msg: NatsMessage) -> bytes:
        return encode(await plans.on_plan_ask(msg.body))


@asynccontextmanager
async def run_workers(
    settings: Settings, known: Mapping[str, ProviderAccount], bus: Bus, session: aiohttp.ClientSession, health: Health
) -> AsyncIterator[None]:
    """Plan and work while the block runs; afterwards finish or give back what is in hand."""
    await _until_ready(bus, known)
    bucket = await bus.js.key_value(subjects.STATE_BUCKET)
    stores = await token_stores(bus.js, known)
    known = {name: account.with_token_store(stores) for name, account in known.items()}
    known[DERIVED.name] = _derived_account(settings, known[DERIVED.name], bus)
    stop = asyncio.Event()
    terms = settings.fetcher
    keys = KeyStateStore(bus, bucket)
    circuits = {name: provider_circuit(keys, account, terms) for name, account in known.items()}
    symbols = SymbolHealthStore(bus, ProbePolicy(terms.probe_after_s, terms.restricted_probe_after_s, terms.dead_after))
    chooser = Router(bus, known, circuits, symbols)
    dead_letters = DeadLetters(bus, "fetcher")
    failures = FailurePolicy(dead_letters, settings.nats.max_deliveries, (*WAITS, LedgerError))
    shop = WorkerFactory(bus, keys, symbols, chooser, failures, terms)
    universe = Universe(settings.postgres.dsn.get_secret_value(), settings.universes)
    planner = Planner(bus, chooser, universe, dead_letters, terms.expires_after_s)
    workers = [each for name, a in known.items() for each in shop.workers(a, circuits[name], _http_of(session, a))]
    parts = {f"worker {worker.name}": worker.run(stop) for worker in workers}
    options = ConsumerOptions(terms.ack_wait_s, grace_s=PLANNER_GRACE_S)
    parts["planner"] = Consumer(Puller(bus, subjects.REFRESH, PLANNER), planner, failures, options).run(stop)
    options = ConsumerOptions(terms.ack_wait_s, BATCH_TASKS)
    parts["coalescer"] = Consumer(Puller(bus, subjects.WAITING, COALESCER), CoalescedTasks(bus), failures, options).run(stop)
    tending = {"sweeper": OrphanReaper(bus, circuits, chooser, dead_letters).run(), "symbol_health": symbols.run()}
    if stores:
        tending["logins"] = LoginWatch(bucket, known, stores).run()
    async with keys.watch(), supervise(health, parts, stop), supervise(health, tending, None):
        yield


async def _until_ready(bus: Bus, known: Mapping[str, ProviderAccount]) -> None:
    await wait_until_provisioned(bus.js, [*STREAMS, TOKENS_STREAM] if with_logins(known) else STREAMS)
    await check_clock_skew(bus)
    await resume_paused_consumers(bus.js, known)


def _derived_account(settings: Settings, account: ProviderAccount, bus: Bus) -> ProviderAccount:
    """The account of what is derived; its one key opens nothing and has no limit."""
    provider = Derived(bus, settings.postgres.dsn.get_secret_value(), settings.fetcher.risk_free_rate)
    return replace(account, keys=(ApiKey(FIRST_KEY, provider, ()),))


def _http_of(session: aiohttp.ClientSession, account: ProviderAccount) -> HttpFactory:
    given = account.settings

    def client(permit: AcquirePermit, pace: AcquirePermit, heard: Callable[[Reply], None]) -> Http:
        return MeteredHttp(
            session,
            account.base_url,
            permit,
            given.timeout_s,
            given.max_body_bytes,
            pace=pace,
            on_reply=heard,
            policy=account.egress_policy,
        )

    return client
