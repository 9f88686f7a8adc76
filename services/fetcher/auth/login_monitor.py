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
from services.fetcher.accounts import ProviderAccount, all_keys, credentials
from services.fetcher.auth.token_store import EncryptedTokenStore
from services.fetcher.auth.tokens import decode_tokens, login_state
from services.fetcher.provider import Credentials, ProviderError, TokenStore

LOOK_EVERY_S = 300.0
LOGIN_ENDS = Gauge("quotebus_login_ends_timestamp_seconds", "When a person must have logged in again.", ["provider", "key"])
TOKENS_STREAM = f"KV_{subjects.TOKENS_BUCKET}"

log = structlog.get_logger()


def with_logins(known: Mapping[str, ProviderAccount]) -> dict[tuple[str, str], timedelta]:
    """The keys, by provider and name, whose access hangs on a person's login, and how long one lasts."""
    return {
        (name, key.name): lasts for name, account in known.items() if (lasts := account.profile.login_lasts) for key in account.keys
    }


async def token_stores(js: JetStreamContext, known: Mapping[str, ProviderAccount]) -> dict[tuple[str, str], EncryptedTokenStore]:
    """The stores of the keys that need one, by provider and name.

    Raises:
        NotFoundError: there is no bucket for them.
    """
    logins = with_logins(known)
    if not logins:
        return {}
    bucket = await js.key_value(subjects.TOKENS_BUCKET)
    return {(name, key): EncryptedTokenStore(bucket, name, _access(known[name], key)) for name, key in logins}


def _access(account: ProviderAccount, key: str) -> Credentials:
    return credentials(account.settings, all_keys(account.settings)[key])


class LoginWatch:
    """Tells until when each login lasts: as a metric always, as a state and a line in the log once it ends soon or has ended."""

    def __init__(self, state: KeyValue, known: Mapping[str, ProviderAccount], stores: Mapping[tuple[str, str], TokenStore]) -> None:
        self._state = state
        self._lasts = with_logins(known)
        self._stores = stores

    async def run(self) -> None:
        """Watch for ever."""
        while self._stores:
            for name, key in self._stores:
                try:
                    await self.look(name, key)
                except (ProviderError, APIError, nats.errors.Error) as error:
                    log.debug("login_not_looked_at", provider=name, key=key, error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, name: str, key: str) -> None:
        """Look at one login, if it has been used."""
        tokens = decode_tokens((await self._stores[name, key].read()).value)
        if tokens is None:
            return
        state, ends = login_state(tokens, self._lasts[name, key], datetime.now(UTC))
        LOGIN_ENDS.labels(name, key).set(0 if tokens.revoked_reason else ends.timestamp())
        told = {"state": f"login_{state}", "login": tokens.login, "until": ends.isoformat()}
        before = await self._told(name, key)
        if before == told or (state == "ok" and not before):
            return
        if state != "ok":
            log.warning(told["state"], provider=name, key=key, until=told["until"], action="log in again and set refresh_token")
        # For the other replicas: the same is not told twice.
        await self._state.put(_entry(name, key), msgspec.json.encode(told))

    async def _told(self, name: str, key: str) -> dict[str, str]:
        """Last login state that any replica reported."""
        try:
            entry = await self._state.get(_entry(name, key))
        except KeyNotFoundError:
            return {}
        told = msgspec.json.decode(entry.value or b"{}", type=dict[str, object])
        return {key: str(told.get(key)) for key in ("state", "login", "until")}


def _entry(provider: str, key: str) -> str:
    return f"login.{provider}.{key}"
