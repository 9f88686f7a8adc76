"""Whom an adapter may talk to: the rules of `base_url`, and addresses at which no vendor can be.

Defended: no key travels in the clear, unless the settings allow it. A vendor's own host name that leads into a private network or
to this machine (a poisoned or rebound name service) is refused before a byte is sent, and the address that was judged is the one
that is connected to. Link-local addresses and the metadata services of clouds are refused whatever the settings say.
Not defended: who can write the settings can send a key anywhere. A host that `base_url` names is the operator's word: it may be
private, and even the vendor's own host may, once it is written there (a proxy that intercepts, an internal mirror).
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from services.fetcher.provider import Profile
from services.runtime.public_address import is_public
from services.runtime.redact import Redactor
from services.runtime.settings import ProviderSettings
from services.runtime.settings_secrets import secrets_of

# A shorter one is no key, and may stand in a price list.
SHORTEST_KEY = 8
_METADATA = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


@dataclass(frozen=True)
class Trust:
    """What the settings say about the host of a `base_url`.

    `allow_http`: keys may travel in the clear. `private`: it may be in a private network. `redact`: takes keys out of replies.
    """

    allow_http: bool = False
    private: bool = False
    redact: Redactor = field(default_factory=lambda: Redactor((), SHORTEST_KEY))


def trust_of(profile: Profile, settings: ProviderSettings) -> Trust:
    """The trust in a provider that is set up so."""
    allow_http = settings.allow_http or not profile.real
    return Trust(allow_http, settings.base_url is not None, Redactor(secrets_of(settings), SHORTEST_KEY))


def origin_of(base_url: str, trust: Trust) -> tuple[str, str]:
    """Scheme and host, and the host alone, of a `base_url`.

    Raises:
        ValueError: keys could leak, or it says more than where the vendor is.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.path.strip("/") or parts.query:
        raise ValueError("base_url: give scheme and host only, as in https://api.example.com; the paths are the vendor's own")
    if parts.scheme == "http" and not (trust.allow_http or is_loopback(host)):
        raise ValueError(f"base_url: http to {host} would send keys in the clear; use https, or set allow_http = true")
    if (address := _address(host)) is not None and _is_never_a_vendor(address):
        raise ValueError(f"base_url: {host} is an address of the network itself or of a cloud's metadata; no vendor is there")
    return f"{parts.scheme}://{parts.netloc}", host


def is_loopback(host: str) -> bool:
    """Whether the name or address is this machine's own."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def site_of(host: str) -> str:
    """The last two labels of a name; an address is its own site."""
    return host if _address(host) is not None else ".".join(host.split(".")[-2:])


def refusal_of(address: str, *, private: bool) -> str:
    """Why a name that leads to this address is not to be connected to; nothing if it is. `private`: it may be a private one."""
    found = _address(address)
    if found is None or _is_never_a_vendor(found):
        return f"its name leads to {address}, where no vendor is: look at the name service"
    if not private and not is_public(str(found)):
        return f"its name leads to {address}, a private address: set base_url if that is meant"
    return ""


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _is_never_a_vendor(address: IPv4Address | IPv6Address) -> bool:
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
