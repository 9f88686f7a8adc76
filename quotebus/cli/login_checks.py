"""What `quotebus doctor` says of the logins that a person has to renew."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from quotebus.cli.checks import Check

if TYPE_CHECKING:
    from quotebus.client import Client
    from quotebus.settings_here import Here
    from services.fetcher.auth.tokens import Tokens


async def login_checks(here: "Here", qb: "Client") -> AsyncIterator[Check]:
    """How long the logins last that a person has to renew."""
    from nats.js.errors import NotFoundError

    from services.fetcher.accounts import accounts
    from services.fetcher.auth.login_monitor import token_stores, with_logins
    from services.fetcher.auth.tokens import decode_tokens
    from services.fetcher.provider import ProviderError

    known = accounts(here.settings)
    try:
        stores = await token_stores(qb.js, known)
    except NotFoundError:
        return  # its own line says that the bucket is missing
    for (name, key), lasts in with_logins(known).items():
        try:
            tokens = decode_tokens((await stores[name, key].read()).value)
        except ProviderError as error:
            yield Check("warn", "login", error.message)
        else:
            yield _login(name, key, tokens, lasts)


def _login(provider: str, key: str, tokens: "Tokens | None", lasts: timedelta) -> Check:
    from services.fetcher.accounts import variable_of
    from services.fetcher.auth.tokens import login_state
    from services.runtime.settings import FIRST_KEY

    name = provider if key == FIRST_KEY else f"{provider} {key}"

    if tokens is None:
        return Check("warn", "login", f"{name}: not used yet", f"prove it: `quotebus refresh SYMBOL` of {name}")
    state, ends = login_state(tokens, lasts, datetime.now(UTC))
    how = f"log in again and set {variable_of(provider, key, 'refresh_token')}, then restart the fetchers"
    if state == "ended":
        return Check("fail", "login", tokens.revoked_reason or f"{name}: ended {ends:%Y-%m-%d %H:%M}Z", how)
    left = f"{name}: lasts until {ends:%Y-%m-%d %H:%M}Z at the latest"
    return Check("warn", "login", left, how) if state == "ends_soon" else Check("ok", "login", left)
