"""Sockets to public addresses alone. The address looked at is the one connected to, so no name can mean another by then."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

# All that the internet routes of IPv6. Outside of it lie site-local addresses, and IPv4 ones written as IPv6 in one way or another.
_ROUTED = IPv6Network("2000::/3")


class PrivateAddressError(OSError):
    """The address is this machine's, this network's, or nobody's."""


def is_public(address: str) -> bool:
    """Whether packets to this address go out into the internet. An IPv4 address inside an IPv6 one counts."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip.sixtofour or ip.teredo or ip not in _ROUTED:
            return False
    return ip.is_global and not ip.is_multicast


def public_socket(where: tuple[Any, ...]) -> socket.socket:
    """A socket for one address that a name was resolved to.

    Raises:
        PrivateAddressError: the address is not public.
    """
    family, kind, protocol, _, address = where
    if not is_public(str(address[0])):
        raise PrivateAddressError(f"{address[0]} is no public address: set allow_private if that is meant")
    return socket.socket(family, kind, protocol)
