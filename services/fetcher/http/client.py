"""Metered HTTP client for adapters: every attempt takes its own permit; nothing is followed, retried, remembered or unbounded."""

import os
import socket
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from urllib.parse import urlencode, urlsplit

import aiohttp
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from services.fetcher.http.egress_policy import EgressPolicy, check_base_url, is_loopback, site_of, why_refused
from services.fetcher.provider import ProviderError, Reply, Verdict

AcquirePermit = Callable[[int], Awaitable[None]]

CONNECT_TIMEOUT_S = 10.0
CONNECTIONS, CONNECTIONS_PER_HOST = 64, 8
NAMES_KEPT_S = 60
# Of one header, and how many; Yahoo sends more than the usual 8 KiB in one.
HEADER_BYTES, HEADERS = 32 * 1024, 128
CHUNK = 64 * 1024


async def no_permit_needed(_cost: int) -> None:
    """No-op permit and pace for unmetered requests."""


def ignore_reply(_reply: Reply) -> None:
    """No-op observer of replies."""


_PERMIT: ContextVar[tuple[AcquirePermit, int]] = ContextVar("permit")

# Whether the host of the request at hand may have a private address.
MAY_BE_PRIVATE: ContextVar[bool] = ContextVar("may_be_private", default=False)


class AddressRefusedError(OSError):
    """A host name resolved to an address that the egress policy forbids."""


class GuardedResolver(AbstractResolver):
    """Resolves host names and refuses addresses that the egress policy forbids."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Resolve a host name to its addresses.

        Raises:
            AddressRefusedError: the egress policy forbids one of them.
        """
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            if problem := why_refused(each["host"], private=MAY_BE_PRIVATE.get()):
                raise AddressRefusedError(problem)
        return found

    async def close(self) -> None:
        """Close the resolver this one wraps."""
        await self._resolver.close()


class _MeteredRequest(aiohttp.ClientRequest):
    """Request that takes its permit once the connection is open and its bytes leave next, however long connecting took.

    aiohttp sends a GET again by itself when a kept connection turns out dead: it passes here a second time, for a second permit.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        permit, cost = _PERMIT.get((no_permit_needed, 1))
        await permit(cost)
        return await super().send(conn)


def open_session() -> aiohttp.ClientSession:
    """Open the client session that all adapters of a process share: no cookies, no proxies or passwords from the environment."""
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
    """HTTP client of one provider: `provider.Http` on a session of `open_session`.

    `base_url`: scheme and host only, checked against `policy` (`egress_policy.py`). `pace`: awaited with the cost before each
    request, as long as it likes. `permit`: awaited with the cost when the bytes of an attempt leave next. `on_reply`: called with
    every reply, before the adapter sees it.
    A `path` that is a whole URL keeps its host only if that belongs to the site of `base_url`. A body comes without its byte order
    mark, and the answer to a GET without our own keys, wherever the vendor repeats them. Answers to a form are left as they are:
    they bring the keys that come next.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        permit: AcquirePermit,
        timeout_s: float,
        max_body_bytes: int,
        *,
        pace: AcquirePermit = no_permit_needed,
        on_reply: Callable[[Reply], None] = ignore_reply,
        policy: EgressPolicy | None = None,
    ) -> None:
        policy = policy or EgressPolicy()
        self._session = session
        self._origin, self._host = check_base_url(base_url, policy)
        self._private = policy.private or is_loopback(self._host)
        self._redact = policy.redact
        self._permit = permit
        self._pace = pace
        self._on_reply = on_reply
        self._timeout_s = timeout_s
        self._max_body_bytes = max_body_bytes

    async def get(
        self, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, cost: int = 1
    ) -> Reply:
        """Send a GET; see `provider.Http`."""
        reply = await self._send("GET", self._url(path, params), headers, None, cost)
        headers_shown = {name: self._redact.text(value) for name, value in reply.headers.items()}
        return Reply(reply.status, headers_shown, self._redact.body(reply.body))

    async def post_form(self, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None, cost: int = 1) -> Reply:
        """Send a form by POST; see `provider.Http`."""
        return await self._send("POST", self._url(path, None), headers, form, cost)

    async def _send(
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
            raise ProviderError(Verdict.SERVER_ERROR, f"{url.host}: {_describe_error(error)}") from None
        except ValueError:
            problem = "cannot be asked: the key has a character that no header may hold"
            raise ProviderError(Verdict.UNAUTHORIZED, f"{url.host}: {problem}") from None
        self._on_reply(reply)
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


def _describe_error(error: Exception) -> str:
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
