"""Access tokens that are renewed with a refresh token: one renewal at a time, in a process and over all replicas.

Who wants to renew first claims it by compare-and-set in the store; the others wait for what comes of it. A claim ends by itself, so
that one who dies with it holds nobody up. The newest refresh token is kept beside the access token, for an answer may replace it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from services.fetcher.provider import Http, ProviderError, TokenStore, Verdict
from services.fetcher.tokens import Grant, Login, LoginEndedError, Tokens, tokens_in

CLAIM = timedelta(seconds=60)
ANSWER_WITHIN_S = 40.0  # less than a claim lasts: whoever takes it over does not meet our request
LOOK_AGAIN_S = 0.2
KEEP_TRIES_S = (0.0, 0.0, 0.5, 1.0, 3.0)
REMEMBERED_LOGINS = 20

log = structlog.get_logger()


class TokenKeeper:
    """Gives the access token of one account. `ask`: how the vendor turns a refresh token into a grant."""

    def __init__(
        self,
        store: TokenStore,
        login: Login,
        ask: Callable[[Http, str], Awaitable[Grant]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._login = login
        self._ask = ask
        self._clock = clock
        self._tokens: Tokens | None = None
        self._renewal: asyncio.Task[str] | None = None
        self._renewed_for = ""

    async def access_token(self, http: Http, refused: str = "") -> str:
        """A token that serves now, and is not the one the vendor has `refused`, unless a fresh grant gives that same one.

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
                self._renewal.add_done_callback(_look_at_the_end)
            meant_for = self._renewed_for
            token = await asyncio.shield(self._renewal)
            if token != refused or meant_for == refused:
                return token

    async def _renew(self, http: Http, refused: str) -> str:
        patience_ends = self._clock() + 2 * CLAIM
        while True:
            kept = await self._store.read()
            tokens, now = self._current(tokens_in(kept.value)), self._clock()
            if tokens.dead:
                raise LoginEndedError(tokens.dead)
            if tokens.serves(now) and tokens.access_token != refused:
                self._tokens = tokens
                return tokens.access_token
            if tokens.is_claimed(now):
                if now > patience_ends:
                    raise ProviderError(Verdict.TIMEOUT, "another replica renews the access token and does not come to an end")
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            claim = msgspec.structs.replace(tokens, claimed_by=uuid.uuid4().hex, claimed_until=now + CLAIM)
            if (revision := await self._store.write(msgspec.json.encode(claim), kept.revision)) is not None:
                return await self._renew_claimed(http, claim, revision)

    def _current(self, kept: Tokens | None) -> Tokens:
        """What is kept if it is of our login or of a newer one, else the beginning of our login."""
        mark = self._login.mark
        if kept is not None and kept.login == mark:
            return msgspec.structs.replace(kept, login_at=self._login.at or kept.login_at)
        # A replica with older settings takes the newer login; unless that was a mistake, and dead.
        if kept is not None and mark in kept.earlier_logins and not kept.dead:
            return kept
        earlier = [] if kept is None else [known for known in (*kept.earlier_logins, kept.login) if known != mark]
        return Tokens(
            login=mark,
            login_at=self._login.at or self._clock(),
            refresh_token=self._login.refresh_token,
            earlier_logins=earlier[-REMEMBERED_LOGINS:],
        )

    async def _renew_claimed(self, http: Http, claim: Tokens, revision: int) -> str:
        asked_at = self._clock()
        free = msgspec.structs.replace(claim, claimed_by="", claimed_until=None)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                grant = await self._ask(http, claim.refresh_token)
        except LoginEndedError as error:
            await self._keep(msgspec.structs.replace(free, dead=error.message, access_token="", access_until=None), revision)
            raise
        except Exception as error:
            with suppress(ProviderError):
                await self._store.write(msgspec.json.encode(free), revision)
            if isinstance(error, TimeoutError):
                raise ProviderError(Verdict.TIMEOUT, f"no access token in {ANSWER_WITHIN_S:g} s") from None
            raise
        self._tokens = msgspec.structs.replace(
            free,
            access_token=grant.access_token,
            access_until=asked_at + grant.lasts,
            refresh_token=grant.refresh_token or claim.refresh_token,
        )
        await self._keep(self._tokens, revision)
        return grant.access_token

    async def _keep(self, tokens: Tokens, revision: int) -> None:
        """Keep the result. Trying hard is worth it: a refresh token that was replaced and is lost ends the login."""
        problem = ""
        for wait_s in KEEP_TRIES_S:
            await asyncio.sleep(wait_s)
            try:
                if await self._store.write(msgspec.json.encode(tokens), revision) is not None:
                    return
                # Our claim ran out and somebody took over: newer than ours is only what has come of that.
                kept = await self._store.read()
                if (there := tokens_in(kept.value)) is not None and _is_newer(there, tokens):
                    return
                revision = kept.revision
                problem = "others keep theirs"
            except ProviderError as error:
                problem = error.message
        log.error("tokens_not_kept", error=problem, action="if the next renewal fails, log in again")


def _is_newer(there: Tokens, ours: Tokens) -> bool:
    if there.login != ours.login:
        return ours.login in there.earlier_logins
    return there.access_until is not None and (ours.access_until is None or there.access_until > ours.access_until)


def _look_at_the_end(renewal: asyncio.Task[str]) -> None:
    """The error belongs to those who wait; when all of them are gone it is nobody's."""
    if not renewal.cancelled():
        renewal.exception()
