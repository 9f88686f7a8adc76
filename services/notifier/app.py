"""The notifier's application: every `[[notify]]` table is a part of its own. Needs NATS and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from faststream import FastStream

from contracts import subjects
from services.notifier.on_run_events import Notifications, Sender
from services.notifier.send_apprise import AppriseSender
from services.notifier.send_webhook import WebhookSender, open_session, signing_key
from services.runtime.bus import Bus, connect
from services.runtime.health import Health
from services.runtime.jetstream.provision import wait_until_provisioned
from services.runtime.service import ServiceApp, StartRefusedError, request_reply_broker, supervise
from services.runtime.settings import NotifySettings, Settings

SERVICE = "notifier"

log = structlog.get_logger()


def build(settings: Settings) -> FastStream:
    """The application for these settings.

    Raises:
        StartRefusedError: a receiver cannot be reached as it is set up; the text names it.
    """
    by_apprise = {receiver.id: AppriseSender(receiver) for receiver in settings.notify if not receiver.webhook}
    for receiver in settings.notify:
        _refuse_bad_secret(receiver)
    health = Health(SERVICE)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(health.serve(settings.health))
            bus = await stack.enter_async_context(connect(settings.nats, SERVICE))
            senders: dict[str, Sender] = dict(by_apprise)
            for receiver in settings.notify:
                if receiver.webhook:
                    session = await stack.enter_async_context(open_session(allow_private=receiver.allow_private))
                    senders[receiver.id] = WebhookSender(session, receiver)
            stop, limit = asyncio.Event(), settings.nats.max_deliveries
            parts = {
                f"notify {each.id}": _notify(bus, health, Notifications(bus, each, senders[each.id], limit), each.id, stop)
                for each in settings.notify
            }
            if not parts:
                health.ready("notifications", True)
                log.info("no_receivers", reason="there is no [[notify]] table")
            async with supervise(health, parts, stop):
                yield

    return ServiceApp(request_reply_broker(settings, health), lifespan=lifespan, logger=None)


async def _notify(bus: Bus, health: Health, notifications: Notifications, receiver: str, stop: asyncio.Event) -> None:
    part = f"notify {receiver}"
    health.ready(part, False, "waiting for the streams: run `quotebus migrate`")
    await wait_until_provisioned(bus.js, [subjects.RUNS, subjects.DEAD])
    health.ready(part, True)
    await notifications.run(stop)


def _refuse_bad_secret(receiver: NotifySettings) -> None:
    for secret in (receiver.secret.get_secret_value() if receiver.secret else "").split():
        try:
            signing_key(secret)
        except ValueError as error:
            raise StartRefusedError(f"notify {receiver.id}: secret: {error}") from None
