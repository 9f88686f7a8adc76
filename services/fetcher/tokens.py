"""What is kept of a person's login: the newest refresh token, the access token it gave, and who is renewing it."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from services.fetcher.provider import Kept, ProviderError, Verdict

EARLY = timedelta(seconds=60)  # a token this near its end is renewed
WARN_BEFORE = timedelta(days=1)


class LoginEndedError(ProviderError):
    """The refresh token is dead: only a person's new login helps, so it is not tried again."""

    def __init__(self, message: str) -> None:
        super().__init__(Verdict.UNAUTHORIZED, message)


class Grant(NamedTuple):
    """What a vendor gives for a refresh token; `refresh_token`: the one to use next, empty if it stays."""

    access_token: str
    lasts: timedelta
    refresh_token: str = ""


class Login(NamedTuple):
    """A person's login as the settings have it: the refresh token it gave, and when it was, if they say."""

    refresh_token: str
    at: datetime | None = None

    @property
    def mark(self) -> str:
        """Tells one login from another without telling the token."""
        return hashlib.sha256(self.refresh_token.encode()).hexdigest()[:16]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What the store keeps. `login_at`: when the person logged in, else when the login was first used.

    `earlier_logins`: the marks of those that this login replaced. `claimed_by`, `claimed_until`: who is renewing.
    `dead`: why the login has ended.
    """

    login: str
    login_at: datetime
    refresh_token: str
    access_token: str = ""
    access_until: datetime | None = None
    earlier_logins: Sequence[str] = ()
    claimed_by: str = ""
    claimed_until: datetime | None = None
    dead: str = ""

    def __repr__(self) -> str:
        return f"Tokens(login={self.login!r}, access_until={self.access_until}, dead={self.dead!r})"

    def serves(self, now: datetime) -> bool:
        """Whether the access token is good for a while."""
        return bool(self.access_token) and self.access_until is not None and self.access_until - EARLY > now

    def is_claimed(self, now: datetime) -> bool:
        """Whether somebody is renewing."""
        return self.claimed_until is not None and self.claimed_until > now


class TokensInMemory:
    """A store of this process alone."""

    def __init__(self) -> None:
        self._kept = Kept()

    async def read(self) -> Kept:
        """See `TokenStore`."""
        return self._kept

    async def write(self, value: bytes, revision: int) -> int | None:
        """See `TokenStore`."""
        if revision != self._kept.revision:
            return None
        self._kept = Kept(value, revision + 1)
        return self._kept.revision


def tokens_in(value: bytes) -> Tokens | None:
    """What a store's value holds; None for nothing, and for what is not ours to read."""
    try:
        return msgspec.json.decode(value, type=Tokens) if value else None
    except msgspec.MsgspecError:
        return None


def login_state(tokens: Tokens, lasts: timedelta, now: datetime) -> tuple[Literal["ok", "ends_soon", "ended"], datetime]:
    """How it stands with a login, and until when it serves at the latest."""
    ends = tokens.login_at + lasts
    if tokens.dead or ends <= now:
        return "ended", ends
    return ("ends_soon" if ends - now <= WARN_BEFORE else "ok"), ends
