"""Logins that a person has to renew: their tokens are shared by all replicas, and their end is told in good time."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.errors import APIError, KeyNotFoundError
from nats.js.kv import KeyValue
from prometheus_client import Gauge

from contracts import subjects
from services.fetcher.accounts import Account, access
from services.fetcher.provider import ProviderError, TokenStore
from services.fetcher.reports import tell_state
from services.fetcher.token_bucket import TokenBucket
from services.fetcher.tokens import login_state, tokens_in

LOOK_EVERY_S = 300.0
LOGIN_ENDS = Gauge("quotebus_login_ends_timestamp_seconds", "When a person must have logged in again.", ["provider"])
TOKENS_STREAM = f"KV_{subjects.TOKENS_BUCKET}"

log = structlog.get_logger()


def with_logins(known: Mapping[str, Account]) -> dict[str, timedelta]:
    """The accounts whose access hangs on a person's login, and how long one lasts."""
    return {name: lasts for name, account in known.items() if (lasts := account.profile.login_lasts)}


async def token_stores(js: JetStreamContext, known: Mapping[str, Account]) -> dict[str, TokenBucket]:
    """The stores of the accounts that need one.

    Raises:
        NotFoundError: there is no bucket for them.
    """
    names = with_logins(known)
    if not names:
        return {}
    bucket = await js.key_value(subjects.TOKENS_BUCKET)
    return {name: TokenBucket(bucket, name, access(known[name].settings)) for name in names}


class LoginWatch:
    """Tells until when each login lasts: as a metric always, as a state and a line in the log once it ends soon or has ended."""

    def __init__(self, state: KeyValue, known: Mapping[str, Account], stores: Mapping[str, TokenStore]) -> None:
        self._state = state
        self._lasts = with_logins(known)
        self._stores = stores

    async def run(self) -> None:
        """Watch for ever."""
        while self._stores:
            for name in self._stores:
                try:
                    await self.look(name)
                except (ProviderError, APIError, nats.errors.Error) as error:
                    log.debug("login_not_looked_at", provider=name, error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, name: str) -> None:
        """Look at one login, if it has been used."""
        tokens = tokens_in((await self._stores[name].read()).value)
        if tokens is None:
            return
        state, ends = login_state(tokens, self._lasts[name], datetime.now(UTC))
        LOGIN_ENDS.labels(name).set(0 if tokens.dead else ends.timestamp())
        told = {"state": f"login_{state}", "login": tokens.login, "until": ends.isoformat()}
        before = await self._told(name)
        if before == told or (state == "ok" and not before):
            return
        if state != "ok":
            log.warning(told["state"], provider=name, until=told["until"], action="log in again and set refresh_token")
        await tell_state(self._state, f"{name}.login", **told)

    async def _told(self, name: str) -> dict[str, str]:
        """What was told last, by whichever replica."""
        try:
            entry = await self._state.get(f"provider.{name}.login")
        except KeyNotFoundError:
            return {}
        told = msgspec.json.decode(entry.value or b"{}", type=dict[str, object])
        return {key: str(told.get(key)) for key in ("state", "login", "until")}
