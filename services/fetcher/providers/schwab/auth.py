"""Schwab's OAuth: what a refresh token is turned into, and when a person has to log in again."""

from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from services.fetcher.adapter.fields import instant_of, number
from services.fetcher.adapter.responses import decode_json, error_for_status, retry_after, sanitize
from services.fetcher.auth.tokens import AccessTokenManager, InMemoryTokenStore, Login, LoginEndedError, TokenResponse
from services.fetcher.provider import Credentials, Http, ProviderError, Reply, Verdict

PATH = "/v1/oauth/token"
LASTS = timedelta(minutes=30)
LOGIN_LASTS = timedelta(days=7)
LOGGED_IN_AT = "logged_in_at"
# An error's name, or a word of what it says, when the refresh token is of no use any more.
_ENDED = ("unsupported_token_type", "refresh_token_authentication_error", "invalid_grant", "invalid_token", "expired_token")
_PASSING = ("server_error", "temporarily_unavailable")


def token_manager(credentials: Credentials) -> AccessTokenManager:
    """Return the tokens of an account, shared where its access says so.

    Raises:
        ValueError: the option `logged_in_at` is no instant.
    """
    basic = b64encode(f"{credentials.api_key}:{credentials.api_secret}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "Accept": "application/json"}

    async def request_token(http: Http, refresh_token: str) -> TokenResponse:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        reply = await http.post_form(PATH, form, headers)
        return parse_token_response(reply, datetime.now(UTC), credentials.api_key, credentials.api_secret, refresh_token)

    login = Login(credentials.refresh_token, _logged_in_at(credentials.options))
    return AccessTokenManager(credentials.tokens or InMemoryTokenStore(), login, request_token)


def parse_token_response(reply: Reply, now: datetime, *secrets: str) -> TokenResponse:
    """Parse the access token, how long it serves, and the refresh token to use next.

    Raises:
        LoginEndedError: only a new login helps.
        ProviderError: there is none now, or not for this application.
    """
    document = decode_json(reply)
    if not isinstance(document, dict):
        raise error_for_status("schwab", reply, now)
    token, name = document.get("access_token"), document.get("error")
    if reply.status == 200 and isinstance(token, str) and token:
        replaced, seconds = document.get("refresh_token"), number(document.get("expires_in"))
        lasts = timedelta(seconds=seconds) if seconds and 0 < seconds <= 86400 else LASTS
        return TokenResponse(token, lasts, replaced if isinstance(replaced, str) else "")
    # Only these two carry what the login itself says; any other status is somebody else's word.
    if not isinstance(name, str) or reply.status not in (400, 401):
        raise error_for_status("schwab", reply, now)
    words = f"{name} {document.get('error_description')}".lower()
    if any(word in words for word in _ENDED):
        problem = "schwab: the refresh token is expired, replaced or revoked; log in again and set refresh_token"
        raise LoginEndedError(problem)
    if name in _PASSING:
        raise ProviderError(
            Verdict.SERVER_ERROR, f"schwab: gives no token now: {sanitize(name, *secrets)}", retry_after(reply, now)
        )
    problem = f"schwab: gives no token to this application ({sanitize(name, *secrets)}); check api_key and api_secret"
    raise ProviderError(Verdict.UNAUTHORIZED, problem)


def _logged_in_at(options: Mapping[str, str | float]) -> datetime | None:
    given = options.get(LOGGED_IN_AT)
    if given is None:
        return None
    at = instant_of(given)
    if at is None:
        raise ValueError(f"schwab: options.{LOGGED_IN_AT} is no instant; write it as 2024-03-15T08:00:00Z")
    return at
