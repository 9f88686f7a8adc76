"""The fetcher: one planner, one worker per provider, the desk for asks, the sweeper."""

import asyncio
import difflib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import structlog
from faststream import FastStream
from faststream.nats import NatsBroker
from faststream.nats.annotations import NatsMessage

from contracts import subjects
from contracts.message import encode
from services.fetcher.accounts import Account, accounts
from services.fetcher.http import MeteredHttp, open_session
from services.fetcher.ledger import Ledger
from services.fetcher.logins import TOKENS_STREAM, LoginWatch, token_stores, with_logins
from services.fetcher.on_fetch_task import Permit, Work, Worker
from services.fetcher.on_refresh_ask import AskDesk
from services.fetcher.on_refresh_request import Planner, planner_puller
from services.fetcher.origin import origin_of
from services.fetcher.provider import Http, providers
from services.fetcher.rest import Rest
from services.fetcher.sweep import Sweeper
from services.fetcher.universe import Universe
from services.runtime.bus import Bus, connect
from services.runtime.health import Health
from services.runtime.main import Service, StartRefusedError, light_broker, watched
from services.runtime.provision import wait_until_provisioned
from services.runtime.settings import Settings
from services.runtime.skew import refuse_skewed_clock

ASKS_AT_ONCE = 64

log = structlog.get_logger()


def build(settings: Settings) -> FastStream:
    """The fetcher's application."""
    _refuse_unknown(settings)
    health = Health("fetcher")
    broker = light_broker(settings, health)
    desk = AskDesk()
    _answer_asks(broker, desk)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        known = accounts(settings)
        async with (
            health.serve(settings.health),
            connect(settings.nats, "fetcher") as bus,
            open_session() as session,
            working(settings, known, bus, session, health),
        ):
            desk.open(bus)
            health.ready("fetcher", True)
            log.info("fetcher_ready", providers=sorted(known))
            yield

    return Service(broker, lifespan=lifespan, logger=None)


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
            origin_of(account.base_url, account.trust)
        except ValueError as error:
            raise StartRefusedError(f"providers.{name}.{error}") from None


def _answer_asks(broker: NatsBroker, desk: AskDesk) -> None:
    @broker.subscriber(subjects.REFRESH_ASK, queue="ask", max_workers=ASKS_AT_ONCE)
    async def on_refresh_ask(msg: NatsMessage) -> bytes:
        return encode(await desk.on_refresh_ask(msg.body))


@asynccontextmanager
async def working(
    settings: Settings, known: Mapping[str, Account], bus: Bus, session: aiohttp.ClientSession, health: Health
) -> AsyncIterator[None]:
    """Plan and work while the block runs; afterwards finish or give back what is in hand."""
    await _until_ready(bus, known)
    state = await bus.js.key_value(subjects.STATE_BUCKET)
    stores = await token_stores(bus.js, known)
    known = {name: account.sharing(stores[name]) if name in stores else account for name, account in known.items()}
    stop = asyncio.Event()
    rests = {name: Rest(bus, state, name, settings.fetcher.breaker_failures) for name in known}
    universe = Universe(settings.postgres.dsn.get_secret_value())
    planner = Planner(bus, known, universe, settings.fetcher.expires_after_s)
    workers = {}
    for name, account in known.items():
        work = Work(
            bus=bus,
            account=account,
            accounts=known,
            ledger=Ledger(bus, account.windows()),
            rest=rests[name],
            http=_http_of(session, account),
            ack_wait_s=settings.fetcher.ack_wait_s,
            calls_at_once=settings.fetcher.calls_at_once,
        )
        workers[f"worker {name}"] = Worker(work)
    parts = {name: worker.run(stop) for name, worker in workers.items()}
    parts["planner"] = planner.run(planner_puller(bus), stop, settings.fetcher.ack_wait_s)
    tending = {"sweeper": Sweeper(bus, known, rests).run()}
    if stores:
        tending["logins"] = LoginWatch(state, known, stores).run()
    async with watched(health, parts, stop), watched(health, tending, None):
        yield


async def _until_ready(bus: Bus, known: Mapping[str, Account]) -> None:
    needed = [subjects.REFRESH, subjects.TASKS, subjects.PRICES, subjects.RUNS, subjects.DEAD]
    await wait_until_provisioned(bus.js, [*needed, TOKENS_STREAM] if with_logins(known) else needed)
    await refuse_skewed_clock(bus)


def _http_of(session: aiohttp.ClientSession, account: Account) -> Callable[[Permit, Permit], Http]:
    given = account.settings

    def client(permit: Permit, pace: Permit) -> Http:
        return MeteredHttp(session, account.base_url, permit, given.timeout_s, given.max_body_bytes, pace=pace, trust=account.trust)

    return client
