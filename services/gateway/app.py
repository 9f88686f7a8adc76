"""The gateway's application: HTTP over the bucket of jobs, the bus, Redis and PostgreSQL."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from faststream import FastStream

from contracts import subjects
from services.gateway.auth import Authorizer
from services.gateway.price_reader import PriceReader
from services.gateway.read_postgres import SERVER_SETTINGS, Store
from services.gateway.refresh_on_read import StaleReadRefresher
from services.gateway.routes import all_routes
from services.gateway.routing import Gateway, Route, endpoint, method_not_allowed, not_found
from services.runtime.bus import connect
from services.runtime.health import Health
from services.runtime.jetstream.provision import wait_until_provisioned
from services.runtime.jobs.store import JOBS_STREAM, open_job_bucket
from services.runtime.postgres import open_pool
from services.runtime.prices.read_redis import DocumentCache, open_redis
from services.runtime.schedules.calendar_store import SESSIONS_STREAM
from services.runtime.service import ServiceApp, StartRefusedError, request_reply_broker, supervise
from services.runtime.settings import GatewaySettings, Settings

SERVICE = "gateway"
_ENDS_WITHIN_S = 2.0

log = structlog.get_logger()


def build(settings: Settings) -> FastStream:
    """The gateway's application."""
    health = Health(SERVICE)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with (
            health.serve(settings.health),
            connect(settings.nats, SERVICE) as bus,
            open_pool(settings.postgres, SERVER_SETTINGS, connect_s=3) as pool,
            open_redis(settings.redis) as client,
        ):
            health.ready("streams", False, "waiting for the streams: run `quotebus migrate`")
            # Said before the streams are there: else it would be ready between the two, and answer nobody.
            health.ready("http", False, "it does not listen yet")
            await wait_until_provisioned(bus.js, [subjects.REFRESH, subjects.PRICES, JOBS_STREAM, SESSIONS_STREAM])
            health.ready("streams", True)
            store = Store(pool, settings.postgres.pool_size)
            stale = StaleReadRefresher(bus, settings.redis, settings.gateway.refreshes_per_minute)
            gateway = Gateway(
                settings=settings,
                bus=bus,
                jobs=await open_job_bucket(bus.nc),
                store=store,
                prices=PriceReader(DocumentCache(client, settings.redis), store, settings.redis),
                stale=stale,
                access=Authorizer(settings.gateway),
                health=health,
            )
            async with supervise(health, {"stale_prices": stale.run()}, None), _serving(gateway, settings.gateway) as port:
                log.info("gateway_ready", host=settings.gateway.host, port=port, tokens=len(settings.gateway.tokens))
                yield

    return ServiceApp(request_reply_broker(settings, health), lifespan=lifespan, logger=None)


def web_app(gateway: Gateway) -> web.Application:
    """Every route, on aiohttp."""
    app = web.Application(client_max_size=gateway.settings.gateway.max_body_bytes)
    by_path: dict[str, list[Route]] = {}
    for route in all_routes():
        by_path.setdefault(route.path, []).append(route)
    for path, routes in by_path.items():
        resource = app.router.add_resource(path)
        for route in routes:
            serve = endpoint(gateway, route)
            for method in route.methods:
                resource.add_route(method, serve)
        resource.add_route("*", method_not_allowed(path, [method for route in routes for method in route.methods]))
    app.router.add_route("*", "/{path:.*}", not_found)

    async def end_streams(_app: web.Application) -> None:
        for task in gateway.streams:
            task.cancel()

    app.on_shutdown.append(end_streams)
    return app


@asynccontextmanager
async def _serving(gateway: Gateway, settings: GatewaySettings) -> AsyncIterator[int]:
    """Answer while the block runs; afterwards finish what was asked."""
    runner = web.AppRunner(web_app(gateway), access_log=None, shutdown_timeout=_ENDS_WITHIN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            # asyncio says the address once more; an unknown name has a number below 0, and a text of its own.
            number = error.errno or 0
            why = os.strerror(number) if number > 0 else error.strerror
            what = f"cannot listen on {settings.host} port {settings.port}: {why}"
            raise StartRefusedError(f"{what}: set `host` and `port` of [gateway] to what is free here") from None
        gateway.health.ready("http", True)
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
