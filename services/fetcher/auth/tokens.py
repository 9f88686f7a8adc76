"""Access tokens that are renewed with a refresh token: one renewal at a time, in a process and over all replicas.

A replica that renews first takes a lease by compare-and-set in the store; the others wait for the result. A lease ends by itself,
so a replica that dies with it holds nobody up. The newest refresh token is stored too, as any response may replace it.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec
import structlog

from services.fetcher.provider import Http, ProviderError, StoredValue, TokenStore, Verdict

EARLY = timedelta(seconds=60)  # a token this near its end is renewed
WARN_BEFORE = timedelta(days=1)
LEASE = timedelta(seconds=60)
ANSWER_WITHIN_S = 40.0  # less than a lease lasts: whoever takes it over does not meet our request
POLL_S = 0.2
STORE_RETRY_WAITS_S = (0.0, 0.0, 0.5, 1.0, 3.0)
MAX_EARLIER_LOGINS = 20

log = structlog.get_logger()


class LoginEndedError(ProviderError):
    """The refresh token is revoked or expired: only a person's new login helps, so it is not tried again."""

    def __init__(self, message: str) -> None:
        super().__init__(Verdict.UNAUTHORIZED, message)


class TokenResponse(NamedTuple):
    """Token endpoint's response to a refresh token. `refresh_token`: the one to use next, empty if it stays."""

    access_token: str
    lasts: timedelta
    refresh_token: str = ""


class Login(NamedTuple):
    """A person's login as the settings have it: the refresh token it gave, and when it was, if they say."""

    refresh_token: str
    at: datetime | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies the login without revealing the token."""
        return hashlib.sha256(self.refresh_token.encode()).hexdigest()[:16]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Stored tokens of one login, and the lease of the replica that is renewing them.

    `login`: its fingerprint. `login_at`: when the person logged in, else when the login was first used. `earlier_logins`: the
    fingerprints of those that this login replaced. `revoked_reason`: why the login has ended. Some are stored under older names.
    """

    login: str
    login_at: datetime
    refresh_token: str
    access_token: str = ""
    access_until: datetime | None = None
    earlier_logins: Sequence[str] = ()
    lease_holder: str = msgspec.field(name="claimed_by", default="")
    lease_until: datetime | None = msgspec.field(name="claimed_until", default=None)
    revoked_reason: str = msgspec.field(name="dead", default="")

    def __repr__(self) -> str:
        return f"Tokens(login={self.login!r}, access_until={self.access_until}, revoked_reason={self.revoked_reason!r})"

    def serves(self, now: datetime) -> bool:
        """Tell if the access token stays valid for a while."""
        return bool(self.access_token) and self.access_until is not None and self.access_until - EARLY > now

    def is_leased(self, now: datetime) -> bool:
        """Tell if a replica is renewing the tokens."""
        return self.lease_until is not None and self.lease_until > now


class InMemoryTokenStore:
    """`provider.TokenStore` of this process alone."""

    def __init__(self) -> None:
        self._kept = StoredValue()

    async def read(self) -> StoredValue:
        """See `TokenStore`."""
        return self._kept

    async def write(self, value: bytes, revision: int) -> int | None:
        """See `TokenStore`."""
        if revision != self._kept.revision:
            return None
        self._kept = StoredValue(value, revision + 1)
        return self._kept.revision


class AccessTokenManager:
    """Access token of one account, renewed when it nears its end. `request_token`: exchanges a refresh token at the vendor."""

    def __init__(
        self,
        store: TokenStore,
        login: Login,
        request_token: Callable[[Http, str], Awaitable[TokenResponse]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._login = login
        self._request_token = request_token
        self._clock = clock
        self._tokens: Tokens | None = None
        self._renewal: asyncio.Task[str] | None = None
        self._renewed_for = ""

    async def access_token(self, http: Http, refused: str = "") -> str:
        """Return a valid access token; not the one the vendor has `refused`, unless a renewal just now gave that same one.

        Raises:
            LoginEndedError: a person has to log in again.
            ProviderError: there is none at the moment.
        """
        if self._tokens and self._tokens.serves(self._clock()) and self._tokens.access_token != refused:
            return self._tokens.access_token
        while True:
            if self._renewal is None or self._renewal.done():
                self._renewed_for = refused
                # A task of its own: a renewal that has begun is finished and kept, even if who asked for it is gone.
                self._renewal = asyncio.create_task(self._renew(http, refused))
                self._renewal.add_done_callback(_retrieve_exception)
            meant_for = self._renewed_for
            token = await asyncio.shield(self._renewal)
            if token != refused or meant_for == refused:
                return token

    async def _renew(self, http: Http, refused: str) -> str:
        gives_up_at = self._clock() + 2 * LEASE
        while True:
            kept = await self._store.read()
            tokens, now = self._current(decode_tokens(kept.value)), self._clock()
            if tokens.revoked_reason:
                raise LoginEndedError(tokens.revoked_reason)
            if tokens.serves(now) and tokens.access_token != refused:
                self._tokens = tokens
                return tokens.access_token
            if tokens.is_leased(now):
                if now > gives_up_at:
                    raise ProviderError(Verdict.TIMEOUT, "another replica is renewing the access token and does not finish")
                await asyncio.sleep(POLL_S)
                continue
            lease = msgspec.structs.replace(tokens, lease_holder=uuid.uuid4().hex, lease_until=now + LEASE)
            if (revision := await self._store.write(msgspec.json.encode(lease), kept.revision)) is not None:
                return await self._renew_leased(http, lease, revision)

    def _current(self, kept: Tokens | None) -> Tokens:
        """Return the stored tokens if they are of our login or a newer one, else the initial tokens of our login."""
        fingerprint = self._login.fingerprint
        if kept is not None and kept.login == fingerprint:
            return msgspec.structs.replace(kept, login_at=self._login.at or kept.login_at)
        # A replica with older settings takes the newer login; unless that was a mistake, and dead.
        if kept is not None and fingerprint in kept.earlier_logins and not kept.revoked_reason:
            return kept
        earlier = [] if kept is None else [known for known in (*kept.earlier_logins, kept.login) if known != fingerprint]
        return Tokens(
            login=fingerprint,
            login_at=self._login.at or self._clock(),
            refresh_token=self._login.refresh_token,
            earlier_logins=earlier[-MAX_EARLIER_LOGINS:],
        )

    async def _renew_leased(self, http: Http, lease: Tokens, revision: int) -> str:
        asked_at = self._clock()
        free = msgspec.structs.replace(lease, lease_holder="", lease_until=None)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                response = await self._request_token(http, lease.refresh_token)
        except LoginEndedError as error:
            await self._store_tokens(
                msgspec.structs.replace(free, revoked_reason=error.message, access_token="", access_until=None), revision
            )
            raise
        except Exception as error:
            with suppress(ProviderError):
                await self._store.write(msgspec.json.encode(free), revision)
            if isinstance(error, TimeoutError):
                raise ProviderError(Verdict.TIMEOUT, f"no access token in {ANSWER_WITHIN_S:g} s") from None
            raise
        self._tokens = msgspec.structs.replace(
            free,
            access_token=response.access_token,
            access_until=asked_at + response.lasts,
            refresh_token=response.refresh_token or lease.refresh_token,
        )
        await self._store_tokens(self._tokens, revision)
        return response.access_token

    async def _store_tokens(self, tokens: Tokens, revision: int) -> None:
        """Store the renewed tokens, with retries: a refresh token that was replaced and is lost ends the login."""
        problem = ""
        for wait_s in STORE_RETRY_WAITS_S:
            await asyncio.sleep(wait_s)
            try:
                if await self._store.write(msgspec.json.encode(tokens), revision) is not None:
                    return
                # Our lease ran out and somebody took over: newer than ours is only what has come of that.
                kept = await self._store.read()
                if (there := decode_tokens(kept.value)) is not None and _is_newer(there, tokens):
                    return
                revision = kept.revision
                problem = "others keep theirs"
            except ProviderError as error:
                problem = error.message
        log.error("tokens_not_kept", error=problem, action="if the next renewal fails, log in again")


def decode_tokens(value: bytes) -> Tokens | None:
    """Decode the value of a store; None if it is empty or not ours to read."""
    try:
        return msgspec.json.decode(value, type=Tokens) if value else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def login_state(tokens: Tokens, lasts: timedelta, now: datetime) -> tuple[Literal["ok", "ends_soon", "ended"], datetime]:
    """State of a login, and when it ends at the latest."""
    ends = tokens.login_at + lasts
    if tokens.revoked_reason or ends <= now:
        return "ended", ends
    return ("ends_soon" if ends - now <= WARN_BEFORE else "ok"), ends


def _is_newer(there: Tokens, ours: Tokens) -> bool:
    if there.login != ours.login:
        return ours.login in there.earlier_logins
    return there.access_until is not None and (ours.access_until is None or there.access_until > ours.access_until)


def _retrieve_exception(renewal: asyncio.Task[str]) -> None:
    """Mark the error as seen: it is raised in those who wait, and when all of them are gone nobody needs it."""
    if not renewal.cancelled():
        renewal.exception()
