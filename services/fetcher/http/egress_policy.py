"""Egress policy (SSRF guard): which hosts and addresses an adapter may contact.

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
from services.runtime.addresses import is_public
from services.runtime.logs import Redactor
from services.runtime.settings import ProviderSettings, secrets_of

# A shorter one is no key, and may stand in a price list.
MIN_KEY_LENGTH = 8
_METADATA = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


@dataclass(frozen=True)
class EgressPolicy:
    """Egress policy of one provider, as its settings allow.

    `allow_http`: keys may travel in the clear. `private`: it may be in a private network. `redact`: takes keys out of replies.
    """

    allow_http: bool = False
    private: bool = False
    redact: Redactor = field(default_factory=lambda: Redactor((), MIN_KEY_LENGTH))


def policy_for(profile: Profile, settings: ProviderSettings) -> EgressPolicy:
    """Derive the egress policy of a provider from its settings."""
    allow_http = settings.allow_http or not profile.real
    return EgressPolicy(allow_http, settings.base_url is not None, Redactor(secrets_of(settings), MIN_KEY_LENGTH))


def check_base_url(base_url: str, policy: EgressPolicy) -> tuple[str, str]:
    """Check a `base_url` against the policy and return its origin (scheme and host) and its host.

    Raises:
        ValueError: keys could leak, or it says more than where the vendor is.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.path.strip("/") or parts.query:
        raise ValueError("base_url: give scheme and host only, as in https://api.example.com; the paths are the vendor's own")
    if parts.scheme == "http" and not (policy.allow_http or is_loopback(host)):
        raise ValueError(f"base_url: http to {host} would send keys in the clear; use https, or set allow_http = true")
    if (address := _address(host)) is not None and _is_forbidden(address):
        raise ValueError(f"base_url: {host} is an address of the network itself or of a cloud's metadata; no vendor is there")
    return f"{parts.scheme}://{parts.netloc}", host


def is_loopback(host: str) -> bool:
    """Tell if a host name or address is this machine's own."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def site_of(host: str) -> str:
    """Return the last two labels of a host name; an address is its own site."""
    return host if _address(host) is not None else ".".join(host.split(".")[-2:])


def why_refused(address: str, *, private: bool) -> str:
    """Return why a resolved address is forbidden, empty if it is allowed. `private`: a private address is allowed."""
    found = _address(address)
    if found is None or _is_forbidden(found):
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


def _is_forbidden(address: IPv4Address | IPv6Address) -> bool:
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
