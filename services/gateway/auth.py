"""Authorization: bearer tokens, of which only hashes are known here; on loopback, only what no web page can send."""

import hashlib
import hmac
import ipaddress
from functools import lru_cache
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

from services.gateway.errors import Problem
from services.runtime.settings import GatewaySettings

Scope = Literal["open", "read", "operate"]
_LOOPBACK_NAMES = {"localhost"}


class Authorizer:
    """Lets a request through or not."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._tokens = {
            name: (token.sha256.get_secret_value().encode(), frozenset(token.scopes)) for name, token in settings.tokens.items()
        }
        self._open_reads = settings.read_without_token
        self.trusting = settings.trust_loopback and is_loopback(settings.host)

    def check(self, request: web.Request, scope: Scope) -> str:
        """Authorize a request for this scope; returns the caller's name, `anybody` where no token is required.

        Raises:
            Problem: they may not, and what is missing.
        """
        if self.trusting:
            _refuse_other_sites(request)
            return "loopback"
        if scope == "open" or (scope == "read" and self._open_reads):
            return "anybody"
        name, scopes = self._owner(request)
        if scope in scopes or "operate" in scopes:
            return name
        raise Problem(403, "forbidden", f"the token {name} is not for this: give it the scope `{scope}` under [gateway]")

    def _owner(self, request: web.Request) -> tuple[str, frozenset[str]]:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode(errors="surrogateescape")).hexdigest().encode()
        found: tuple[str, frozenset[str]] | None = None
        # Every one is compared, so the time it takes says nothing about any.
        for name, (known, scopes) in self._tokens.items():
            if hmac.compare_digest(digest, known):
                found = name, scopes
        if found is None or kind.lower() != "bearer":
            what = "there is no such token" if token else "a token is needed: `Authorization: Bearer TOKEN`"
            more = "" if self._tokens else "; none is known here yet: put its SHA-256 under [gateway] `tokens`"
            raise Problem(401, "unauthorized", what + more, headers={"WWW-Authenticate": 'Bearer realm="quotebus"'})
        return found


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """True if the listen address is loopback, so that only programs of this machine reach the server."""
    try:
        return host in _LOOPBACK_NAMES or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refuse_other_sites(request: web.Request) -> None:
    """Reject requests without a token from web pages of other origins: only this machine's programs and the gateway's page pass."""
    host = request.headers.get("Host", "")
    # A name that somebody's DNS points at us is theirs, and so would be the page.
    if not is_loopback(_parts(f"//{host}").hostname or ""):
        raise Problem(
            403, "forbidden", f"Host: {host[:100]!r} is not this machine's loopback address: ask 127.0.0.1, or use tokens"
        )
    origin = request.headers.get("Origin")
    if (origin is not None and _parts(origin).netloc != host) or request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise Problem(403, "forbidden", "pages of other sites may not ask: without a token only this gateway's own page may")


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
