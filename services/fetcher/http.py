"""HTTP for the adapters: every attempt takes its own permit; nothing is followed, retried, remembered or unbounded."""

import os
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from urllib.parse import urlencode, urlsplit

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from services.fetcher.origin import Trust, is_loopback, origin_of, site_of
from services.fetcher.provider import ProviderError, Reply, Verdict
from services.fetcher.resolver import MAY_BE_PRIVATE, AddressRefusedError, GuardedResolver

Permit = Callable[[int], Awaitable[None]]

CONNECT_TIMEOUT_S = 10.0
CONNECTIONS, CONNECTIONS_PER_HOST = 64, 8
NAMES_KEPT_S = 60
# Of one header, and how many; Yahoo sends more than the usual 8 KiB in one.
HEADER_BYTES, HEADERS = 32 * 1024, 128
CHUNK = 64 * 1024


async def no_permit_needed(_cost: int) -> None:
    """The permit, and the pace, of requests that nobody counts."""


def nobody_listens(_reply: Reply) -> None:
    """Who hears the replies where nobody wants to know."""


_PERMIT: ContextVar[tuple[Permit, int]] = ContextVar("permit")


class _MeteredRequest(aiohttp.ClientRequest):
    """A request that takes its permit when the connection is there and its bytes leave next, however long connecting took.

    aiohttp sends a GET again by itself when a kept connection turns out dead: it passes here a second time, for a second permit.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        permit, cost = _PERMIT.get((no_permit_needed, 1))
        await permit(cost)
        return await super().send(conn)


def open_session() -> aiohttp.ClientSession:
    """The session that every adapter of a process shares: no cookies, no proxies or passwords from the environment."""
    connector = aiohttp.TCPConnector(
        limit=CONNECTIONS, limit_per_host=CONNECTIONS_PER_HOST, ttl_dns_cache=NAMES_KEPT_S, resolver=GuardedResolver()
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_field_size=HEADER_BYTES,
        max_headers=HEADERS,
        headers={"User-Agent": "quotebus"},
        trust_env=False,
        request_class=_MeteredRequest,
    )


class MeteredHttp:
    """One provider's way out: `provider.Http` on a session of `open_session`.

    `base_url`: scheme and host only; see `origin.py` for what is refused, and `trust` for what the settings allow. `pace`: awaited
    with the cost before each request, as long as it likes. `permit`: awaited with the cost when the bytes of an attempt leave next.
    `heard`: told of every reply, before the adapter sees it.
    A `path` that is a whole URL keeps its host only if that belongs to the site of `base_url`. A body comes without its byte order
    mark, and the answer to a GET without our own keys, wherever the vendor repeats them. Answers to a form are left as they are:
    they bring the keys that come next.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        permit: Permit,
        timeout_s: float,
        max_body_bytes: int,
        *,
        pace: Permit = no_permit_needed,
        heard: Callable[[Reply], None] = nobody_listens,
        trust: Trust | None = None,
    ) -> None:
        trust = trust or Trust()
        self._session = session
        self._origin, self._host = origin_of(base_url, trust)
        self._private = trust.private or is_loopback(self._host)
        self._redact = trust.redact
        self._permit = permit
        self._pace = pace
        self._heard = heard
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, cost: int = 1
    ) -> Reply:
        """The answer to a GET; see `provider.Http`."""
        reply = await self._ask("GET", self._url(path, params), headers, None, cost)
        told = {name: self._redact.text(value) for name, value in reply.headers.items()}
        return Reply(reply.status, told, self._redact.body(reply.body))

    async def post_form(self, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None, cost: int = 1) -> Reply:
        """The answer to a POST of a form; see `provider.Http`."""
        return await self._ask("POST", self._url(path, None), headers, form, cost)

    async def _ask(
        self, method: str, url: URL, headers: Mapping[str, str] | None, form: Mapping[str, str] | None, cost: int
    ) -> Reply:
        await self._pace(cost)
        _PERMIT.set((self._permit, cost))
        MAY_BE_PRIVATE.set(self._private)
        timeout = aiohttp.ClientTimeout(
            total=self._timeout_s, connect=min(self._timeout_s, CONNECT_TIMEOUT_S), sock_read=self._timeout_s
        )
        try:
            async with self._session.request(
                method, url, headers=headers, data=form, timeout=timeout, allow_redirects=False
            ) as response:
                reply = Reply(response.status, _headers(response), await self._body(response))
        # Neither error is kept as a cause: its text may hold the URL, and the URL a key.
        except TimeoutError:
            raise ProviderError(Verdict.TIMEOUT, f"{url.host}: no whole answer in {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderError(Verdict.SERVER_ERROR, f"{url.host}: {_what_broke(error)}") from None
        except ValueError:
            problem = "cannot be asked: the key has a character that no header may hold"
            raise ProviderError(Verdict.UNAUTHORIZED, f"{url.host}: {problem}") from None
        self._heard(reply)
        return reply

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        size = response.content_length or 0
        if size <= self._max_body_bytes:
            async for chunk in response.content.iter_chunked(CHUNK):
                body += chunk
                if len(body) > self._max_body_bytes:
                    break
            else:
                return bytes(body.removeprefix(BOM_UTF8))
        response.close()
        problem = f"{response.url.host}: the answer is larger than {self._max_body_bytes} bytes; raise max_body_bytes"
        raise ProviderError(Verdict.MALFORMED, problem)

    def _url(self, path: str, params: Mapping[str, str] | None) -> URL:
        parts = urlsplit(path)
        origin = self._origin
        if parts.scheme == "https" and parts.hostname and site_of(parts.hostname) == site_of(self._host):
            origin = f"https://{parts.hostname}"
        query = f"?{urlencode(params)}" if params else ""
        return URL(f"{origin}{parts.path}{query}", encoded=True)


def _headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Names in lower case; of several values one a line, as a cookie's may hold commas."""
    return {name.lower(): "\n".join(response.headers.getall(name)) for name in response.headers}


def _what_broke(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            refused = isinstance(error.os_error, AddressRefusedError)
            return str(error.os_error) if refused else "no such host, or no name service"
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not to be trusted"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            return f"cannot be reached: {os.strerror(number) if number else type(error.os_error).__name__}"
        case aiohttp.ServerDisconnectedError():
            return "hung up before it answered"
        case aiohttp.ClientPayloadError(__cause__=ContentEncodingError()):
            return "sent an answer whose compression cannot be read"
        case aiohttp.ClientPayloadError():
            return "hung up in the middle of its answer"
        case aiohttp.ClientResponseError():
            return "sent something that is no HTTP, or headers beyond all measure"
        case _:
            return f"the connection failed ({type(error).__name__})"
