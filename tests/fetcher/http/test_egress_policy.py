"""Whom an adapter may talk to, and whom never."""

import socket
from collections.abc import Mapping

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from services.fetcher.app import build
from services.fetcher.http.client import GuardedResolver, MeteredHttp, no_permit_needed, open_session
from services.fetcher.http.egress_policy import EgressPolicy, check_base_url, policy_for
from services.fetcher.provider import ProviderError, Verdict, providers
from services.runtime.service import StartRefusedError
from services.runtime.settings import ProviderSettings, Settings


class Names(AbstractResolver):
    """A name service that knows what it is told, and counts how often it is asked."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        address = self.known[host]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None: ...


async def problem_of(base_url: str, address: str, policy: EgressPolicy | None = None) -> str:
    """Why a host that has this address is not asked."""
    async with open_session() as session:
        connector = session.connector
        connector._resolver = GuardedResolver(Names({"api.example.com": address}))  # type: ignore[union-attr]
        http = MeteredHttp(session, base_url, no_permit_needed, 2.0, 1000, policy=policy)
        with pytest.raises(ProviderError) as caught:
            await http.get("/a")
    assert caught.value.verdict is Verdict.SERVER_ERROR
    return caught.value.message


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.0.1", "127.0.0.1", "100.64.0.1", "fd12::1", "fec0::1", "::1", "::ffff:10.0.0.1"]
)
async def test_a_vendors_own_name_that_leads_into_a_private_network_is_refused_before_a_byte_is_sent(address: str) -> None:
    assert await problem_of("https://api.example.com", address) == (
        f"api.example.com: its name leads to {address}, a private address: set base_url if that is meant"
    )


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0", "::ffff:169.254.169.254"]
)
async def test_where_no_vendor_can_be_is_refused_whatever_the_settings_say(address: str) -> None:
    policy = EgressPolicy(allow_http=True, private=True)
    assert "no vendor is" in await problem_of("http://api.example.com", address, policy)
    if address.startswith("1") and ":" not in address:
        with pytest.raises(ValueError, match="no vendor is there"):
            check_base_url(f"http://{address}", policy)


async def test_a_host_that_the_operator_names_may_be_private() -> None:
    policy = policy_for(providers()["tiingo"].profile, ProviderSettings(base_url="https://api.example.com"))
    assert policy.private
    assert not policy_for(providers()["tiingo"].profile, ProviderSettings()).private
    # Nobody listens there; that it was tried is the point.
    assert "cannot be reached" in await problem_of("https://api.example.com:1", "127.0.0.1", policy)


async def test_http_to_another_machine_wants_the_setting_that_allows_it() -> None:
    profile = providers()["tiingo"].profile
    for settings in (ProviderSettings(), ProviderSettings(allow_http=True)):
        policy = policy_for(profile, settings)
        if settings.allow_http:
            assert check_base_url("http://vendor.internal:8000", policy) == ("http://vendor.internal:8000", "vendor.internal")
        else:
            with pytest.raises(ValueError, match="set allow_http = true"):
                check_base_url("http://vendor.internal:8000", policy)


@pytest.mark.parametrize("base_url", ["http://vendor.internal", "https://vendor.internal/v1", "http://169.254.169.254"])
def test_a_fetcher_does_not_start_with_a_base_url_that_cannot_be_used(base_url: str) -> None:
    account = ProviderSettings(api_key="canary-5d1c", base_url=base_url)
    with pytest.raises(StartRefusedError, match=r"^providers\.tiingo\.base_url: ") as caught:
        build(Settings(providers={"tiingo": account}))
    assert "canary" not in str(caught.value)


async def test_names_are_looked_up_once_in_a_while_and_connections_are_bounded() -> None:
    names, private = Names({"api.example.com": "127.0.0.1"}), EgressPolicy(private=True)
    async with open_session() as session:
        connector = session.connector
        connector._resolver = GuardedResolver(names)  # type: ignore[union-attr]
        for _ in range(3):
            with pytest.raises(ProviderError):
                await MeteredHttp(session, "https://api.example.com:1", no_permit_needed, 2.0, 9, policy=private).get("/")
        assert (connector.limit, connector.limit_per_host) == (64, 8)  # type: ignore[union-attr]
    assert names.asked == ["api.example.com"]
