import asyncio
import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from services.fetcher.http.client import MeteredHttp, open_session
from services.fetcher.http.egress_policy import EgressPolicy
from services.fetcher.provider import ProviderError, Verdict
from services.runtime.logs import Redactor

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = "canary-5d1c"
MIB = 2**20


class Permits:
    """Counts what is taken, and may refuse."""

    def __init__(self, allowed: int = 1000) -> None:
        self.allowed = allowed
        self.taken: list[int] = []

    async def __call__(self, cost: int) -> None:
        if len(self.taken) >= self.allowed:
            raise ProviderError(Verdict.RATE_LIMITED, "no permit left")
        self.taken.append(cost)


@asynccontextmanager
async def vendor(handler: Handler) -> AsyncIterator[str]:
    """The origin of a local server whose every path is answered by `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(origin: str, permits: Permits, **options: float) -> AsyncIterator[MeteredHttp]:
    async with open_session() as session:
        timeout_s, most = options.pop("timeout_s", 5.0), int(options.pop("max_body_bytes", 1000))
        yield MeteredHttp(session, origin, permits, timeout_s, most)


async def verdict_of(request: Awaitable[object]) -> tuple[Verdict, str]:
    with pytest.raises(ProviderError) as caught:
        await request
    assert KEY not in str(caught.value)
    # What a traceback would show beside it must not hold the URL either.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value.verdict, caught.value.message


async def echo(request: web.Request) -> web.Response:
    form = dict(await request.post())
    return web.json_response(
        {"path": request.raw_path, "query": dict(request.query), "form": form, "headers": dict(request.headers)}
    )


async def test_a_request_goes_to_the_vendors_path_with_its_parameters_and_headers() -> None:
    permits = Permits()
    async with vendor(echo) as origin, client(origin + "/", permits) as http:
        reply = await http.get("/v8/chart/%5EGSPC", {"events": "div|split", "q": "a b"}, {"X-Key": KEY}, cost=3)
    body = reply.body.decode()
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("application/json")
    assert '"/v8/chart/%5EGSPC?events=div%7Csplit&q=a+b"' in body
    assert KEY in body
    assert permits.taken == [3]


async def test_a_form_is_posted_as_a_form() -> None:
    async with vendor(echo) as origin, client(origin, Permits()) as http:
        reply = await http.post_form("/v1/oauth/token", {"grant_type": "refresh_token"})
    assert b'"form": {"grant_type": "refresh_token"}' in reply.body


async def test_no_permit_means_no_request() -> None:
    asked: list[str] = []

    async def note(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response()

    async with vendor(note) as origin, client(origin, Permits(allowed=0)) as http:
        verdict, _ = await verdict_of(http.get("/a"))
    assert verdict is Verdict.RATE_LIMITED
    assert not asked


async def test_a_redirect_comes_back_as_it_is_and_is_not_followed() -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/consent"})

    async with vendor(elsewhere) as origin, client(origin, Permits()) as http:
        reply = await http.get("/quote")
    assert (reply.status, reply.headers["location"]) == (302, "/consent")
    assert asked == ["/quote"]


async def test_cookies_come_a_line_each_and_are_not_sent_again() -> None:
    seen: list[str | None] = []

    async def bake(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        response = web.Response()
        response.set_cookie("A1", "x", expires="Sat, 15 Mar 2025 21:30:00 GMT")
        response.set_cookie("A3", "y")
        return response

    async with vendor(bake) as origin, client(origin, Permits()) as http:
        first = await http.get("/")
        await http.get("/")
    assert [line.partition(";")[0] for line in first.headers["set-cookie"].splitlines()] == ["A1=x", "A3=y"]
    assert seen == [None, None]


async def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    release = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with vendor(hang) as origin, client(origin, Permits(), timeout_s=0.05) as http:
        verdict, message = await verdict_of(http.get("/slow", {"apikey": KEY}))
        release.set()
    assert verdict is Verdict.TIMEOUT
    assert message == "127.0.0.1: no whole answer in 0.05 s"


async def test_a_body_that_trickles_is_a_timeout_too() -> None:
    release = asyncio.Event()

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"[")
        await release.wait()
        return response

    async with vendor(trickle) as origin, client(origin, Permits(), timeout_s=0.05) as http:
        verdict, _ = await verdict_of(http.get("/slow"))
        release.set()
    assert verdict is Verdict.TIMEOUT


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_body_larger_than_the_cap_is_malformed(compressed: bool) -> None:
    async def huge(_request: web.Request) -> web.Response:
        response = web.Response(body=b"x" * 100_000)
        if compressed:
            response.enable_compression()
        return response

    async with vendor(huge) as origin, client(origin, Permits(), max_body_bytes=99_999) as http:
        verdict, message = await verdict_of(http.get("/all", {"apikey": KEY}))
    assert verdict is Verdict.MALFORMED
    assert "99999 bytes" in message


async def test_a_body_that_says_it_is_too_large_is_not_even_read() -> None:
    sent: list[int] = []

    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(50 * MIB)})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(50):
                await response.write(bytes(MIB))
                sent.append(MIB)
        return response

    async with vendor(huge) as origin, client(origin, Permits(), max_body_bytes=MIB) as http:
        verdict, _ = await verdict_of(http.get("/all"))
    assert verdict is Verdict.MALFORMED
    assert sum(sent) < 50 * MIB


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_the_memory_of_an_endless_body_and_of_a_bomb_is_bounded(encoding: str) -> None:
    bomb = gzip.compress(bytes(200 * MIB), 9) if encoding else b""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Encoding": encoding} if encoding else {})
        await response.prepare(request)
        chunk = bytes(MIB)
        with suppress(ConnectionError):
            for _ in range(1 if bomb else 200):
                await response.write(bomb or chunk)
        return response

    async with vendor(endless) as origin, client(origin, Permits(), max_body_bytes=4 * MIB) as http:
        tracemalloc.start()
        try:
            verdict, _ = await verdict_of(http.get("/all"))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert verdict is Verdict.MALFORMED
    assert most < 24 * MIB


async def test_what_is_no_http_or_not_to_be_uncompressed_is_a_server_error() -> None:
    async def garbled(_request: web.Request) -> web.Response:
        return web.Response(body=b"no gzip at all", headers={"Content-Encoding": "gzip"})

    async def boastful(_request: web.Request) -> web.Response:
        return web.Response(headers={"X-Long": "x" * 200_000})

    async def chatty(_request: web.Request) -> web.Response:
        return web.Response(headers={f"X-{i}": "x" for i in range(1000)})

    for handler, words in ((garbled, "compression"), (boastful, "headers"), (chatty, "headers")):
        async with vendor(handler) as origin, client(origin, Permits()) as http:
            verdict, message = await verdict_of(http.get("/a", {"apikey": KEY}))
        assert verdict is Verdict.SERVER_ERROR
        assert words in message


async def test_a_long_header_that_yahoo_might_send_is_borne() -> None:
    async def long(_request: web.Request) -> web.Response:
        return web.Response(headers={"X-Long": "x" * 20_000})

    async with vendor(long) as origin, client(origin, Permits()) as http:
        assert len((await http.get("/a")).headers["x-long"]) == 20_000


async def test_a_key_that_no_header_may_hold_is_a_wrong_key() -> None:
    async with vendor(echo) as origin, client(origin, Permits()) as http:
        verdict, message = await verdict_of(http.get("/a", headers={"Authorization": f"Token {KEY}\r\nX-Other: y"}))
    assert verdict is Verdict.UNAUTHORIZED
    assert "no header may hold" in message


async def test_a_body_comes_without_its_byte_order_mark() -> None:
    async def marked(_request: web.Request) -> web.Response:
        return web.Response(body=b'\xef\xbb\xbf{"a": 1}')

    async with vendor(marked) as origin, client(origin, Permits()) as http:
        assert (await http.get("/a")).body == b'{"a": 1}'


async def test_our_keys_come_back_in_no_answer_but_one_to_a_form() -> None:
    async def parrot(request: web.Request) -> web.Response:
        key = request.query.get("apikey") or (await request.post())["refresh_token"]
        return web.Response(text=f'{{"contract": "{key}"}}', headers={"Location": f"https://elsewhere/?k={quote(str(key))}"})

    policy = EgressPolicy(redact=Redactor(["ca/nary-5d1c"], 8))
    async with vendor(parrot) as origin, open_session() as session:
        http = MeteredHttp(session, origin, Permits(), 5.0, 1000, policy=policy)
        told = await http.get("/a", {"apikey": "ca/nary-5d1c"})
        form = await http.post_form("/token", {"refresh_token": "ca/nary-5d1c"})
    assert told.body == b'{"contract": "***"}'
    assert told.headers["location"] == "https://elsewhere/?k=***"
    # The next key comes with it.
    assert b"ca/nary-5d1c" in form.body


async def test_a_server_that_is_not_there_is_a_server_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{unused.getsockname()[1]}"
    async with client(origin, Permits()) as http:
        verdict, message = await verdict_of(http.get("/a", {"apikey": KEY}))
    assert verdict is Verdict.SERVER_ERROR
    assert message.startswith("127.0.0.1: cannot be reached")


async def test_an_answer_that_breaks_off_is_a_server_error() -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    async with vendor(break_off) as origin, client(origin, Permits()) as http:
        verdict, message = await verdict_of(http.get("/a"))
    assert verdict is Verdict.SERVER_ERROR
    assert message == "127.0.0.1: hung up in the middle of its answer"


async def test_a_second_attempt_on_a_dead_connection_takes_its_own_permit() -> None:
    """aiohttp repeats a GET by itself when the kept connection it used was closed meanwhile."""
    permits, arrived = Permits(), 0

    async def drop_the_second(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text="ok")

    async with vendor(drop_the_second) as origin, client(origin, permits) as http:
        await http.get("/a")
        await http.get("/a")
    assert arrived == 3
    assert permits.taken == [1, 1, 1]


async def test_a_permit_is_taken_when_the_connection_is_there_and_not_before() -> None:
    permits = Permits()
    async with client("http://127.0.0.1:1", permits) as http:
        verdict, _ = await verdict_of(http.get("/a"))
    assert verdict is Verdict.SERVER_ERROR
    assert permits.taken == []


async def test_a_refused_permit_leaves_no_connection_behind() -> None:
    arrived: list[str] = []

    async def note(request: web.Request) -> web.Response:
        arrived.append(request.path)
        return web.Response()

    async with vendor(note) as origin, open_session() as session:
        for _ in range(20):
            await verdict_of(MeteredHttp(session, origin, Permits(allowed=0), 5.0, 1000).get("/a"))
        assert (await MeteredHttp(session, origin, Permits(), 5.0, 1000).get("/b")).status == 200
    assert arrived == ["/b"]


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://api.example.com",
        "api.example.com",
        "https://",
        "https://api.example.com/v1",
        "https://api.example.com?x=1",
        "https://user:word@api.example.com",
        "http://api.example.com",
    ],
)
async def test_a_base_url_that_could_leak_or_mislead_is_refused(base_url: str) -> None:
    async with open_session() as session:
        with pytest.raises(ValueError, match="base_url"):
            MeteredHttp(session, base_url, Permits(), 1.0, 1000)


async def test_plain_http_is_for_this_machine_or_where_it_is_allowed() -> None:
    async with open_session() as session:
        for origin in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
            MeteredHttp(session, origin, Permits(), 1.0, 1000)
        MeteredHttp(session, "http://vendor.internal", Permits(), 1.0, 1000, policy=EgressPolicy(allow_http=True))


async def test_a_whole_url_keeps_its_host_only_within_the_vendors_site() -> None:
    """A vendor may have a second host; a stand-in on this machine has none."""
    async with open_session() as session:
        real = MeteredHttp(session, "https://query1.example.com", Permits(), 1.0, 1000)
        played = MeteredHttp(session, "http://127.0.0.1:8123", Permits(), 1.0, 1000)
    assert str(real._url("https://fc.example.com/a", None)) == "https://fc.example.com/a"
    assert str(real._url("https://evil.example.net/a", {"k": "v"})) == "https://query1.example.com/a?k=v"
    assert str(played._url("https://fc.example.com/a", None)) == "http://127.0.0.1:8123/a"


async def test_the_session_takes_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with vendor(echo) as origin, client(origin, Permits()) as http:
        assert (await http.get("/a")).status == 200


async def test_a_session_is_an_ordinary_one_to_those_who_do_not_meter() -> None:
    async with vendor(echo) as origin, open_session() as session, session.get(origin + "/a") as response:
        assert isinstance(session, aiohttp.ClientSession)
        assert response.status == 200
