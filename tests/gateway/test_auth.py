"""Who is let in: on loopback every program but no page of somebody else's; elsewhere whoever has a token of the scope."""

import hashlib

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from services.gateway.auth import Authorizer, Scope, is_loopback
from services.gateway.errors import Problem
from services.runtime.settings import GatewaySettings, TokenSettings

HOST = "127.0.0.1:8088"
TRUSTING = GatewaySettings(trust_loopback=True)


def asked(host: str = HOST, **headers: str) -> web.Request:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("POST", "/refresh", headers={"Host": host, **spelled})


def answer(access: Authorizer, request: web.Request, scope: Scope = "operate") -> str | int:
    """Who is let in, or the status of the refusal."""
    try:
        return access.check(request, scope)
    except Problem as problem:
        return problem.status


@pytest.mark.parametrize("host", [HOST, "localhost:8088", "[::1]:8088", "127.9.9.9"])
def test_a_program_of_this_machine_needs_no_token(host: str) -> None:
    access = Authorizer(TRUSTING)
    assert answer(access, asked(host)) == "loopback"
    assert answer(access, asked(host, Origin=f"http://{host}")) == "loopback", "our own page"


@pytest.mark.parametrize(
    "request_",
    [
        asked(Origin="http://evil.example"),
        asked(Origin="http://localhost:3000"),
        asked(Origin="null"),
        asked(Origin=""),
        asked(Sec_Fetch_Site="cross-site"),
        asked("rebound.evil.example:8088"),
        asked("rebound.evil.example:8088", Origin="http://rebound.evil.example:8088"),
        asked(""),
        asked("[::1"),
    ],
)
def test_a_page_of_somebody_else_is_refused_whatever_it_wants(request_: web.Request) -> None:
    scopes: tuple[Scope, ...] = ("open", "read", "operate")
    assert [answer(Authorizer(TRUSTING), request_, scope) for scope in scopes] == [403, 403, 403]


def test_trust_in_loopback_means_nothing_where_others_can_reach_it() -> None:
    access = Authorizer(GatewaySettings(trust_loopback=True, host="0.0.0.0"))
    assert not access.trusting
    assert answer(access, asked()) == 401


def test_a_token_opens_what_its_scopes_say_and_reading_is_closed_when_it_is_told_to_be() -> None:
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("ann", "bob")}
    tokens = {
        "ann": TokenSettings(sha256=hashes["ann"]),
        "bob": TokenSettings(sha256=hashes["bob"], scopes=["read"]),
    }
    access = Authorizer(GatewaySettings(tokens=tokens, read_without_token=False))
    seen = {
        who: [answer(access, asked(Authorization=f"bearer {who}"), scope) for scope in ("read", "operate")]
        for who in ("ann", "bob", "eve", "")
    }
    assert seen == {"ann": ["ann", "ann"], "bob": ["bob", 403], "eve": [401, 401], "": [401, 401]}
    assert answer(access, asked(), "open") == "anybody"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.evil.example", ""])
def test_what_others_can_reach_is_no_loopback(host: str) -> None:
    assert not is_loopback(host)
