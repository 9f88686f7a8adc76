"""Webhook sender: signs and posts a notification, to public addresses only."""

import binascii
import hmac
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import stamina

from services.notifier.message import Notification
from services.runtime.addresses import is_public
from services.runtime.settings import NotifySettings

ATTEMPTS = 3
TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)
_PREFIX = "whsec_"


class PrivateAddressError(OSError):
    """The address is this machine's, this network's, or nobody's."""


def public_socket(where: tuple[Any, ...]) -> socket.socket:
    """A socket for one address that a name was resolved to.

    Raises:
        PrivateAddressError: the address is not public.
    """
    family, kind, protocol, _, address = where
    if not is_public(str(address[0])):
        raise PrivateAddressError(f"{address[0]} is no public address: set allow_private if that is meant")
    return socket.socket(family, kind, protocol)


class SendError(Exception):
    """The notice was not taken; it may be later. The text holds neither the address nor a secret."""


def signing_key(secret: str) -> bytes:
    """The bytes that a secret stands for: base64 after `whsec_`, else the text itself.

    Raises:
        ValueError: what follows `whsec_` is not base64.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("what follows whsec_ is not base64") from None


def signature(key: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """The signature of one try with one key."""
    signed = b".".join((identity.encode(), str(timestamp).encode(), body))
    return "v1," + b64encode(hmac.digest(key, signed, "sha256")).decode()


class WebhookSender:
    """Sends notices to one address, a few times before it gives up for now."""

    def __init__(self, session: aiohttp.ClientSession, settings: NotifySettings) -> None:
        self._session = session
        self._url = settings.url.get_secret_value()
        self._keys = [signing_key(secret) for secret in (settings.secret.get_secret_value() if settings.secret else "").split()]

    async def send(self, notice: Notification) -> None:
        """Return when the receiver took it.

        Raises:
            SendError: it did not.
        """
        tries = stamina.retry_context(
            on=SendError, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=2.0, wait_jitter=0.3
        )
        async for attempt in tries:
            with attempt:
                await self._post(notice)

    async def _post(self, notice: Notification) -> None:
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "quotebus",
            "webhook-id": notice.id,
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(signature(key, notice.id, now, notice.body) for key in self._keys),
        }
        try:
            # A redirect would lead to an address that nobody has looked at.
            async with self._session.post(self._url, data=notice.body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except aiohttp.ClientConnectorError as error:
            raise SendError(f"no connection: {error.os_error.strerror or error.os_error}") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # Their texts may hold the address.
            raise SendError(f"no answer: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise SendError(f"it answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else ""))


@asynccontextmanager
async def open_session(*, allow_private: bool) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that connects to public addresses alone, unless told otherwise. Names are looked up for every connection."""
    connector = aiohttp.TCPConnector(use_dns_cache=False, socket_factory=None if allow_private else public_socket)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session
