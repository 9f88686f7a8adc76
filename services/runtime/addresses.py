"""Which addresses are out in the internet, and not this machine's, this network's, or nobody's."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# All that the internet routes of IPv6. Outside of it lie site-local addresses, and IPv4 ones written as IPv6 in one way or another.
_ROUTED = IPv6Network("2000::/3")


def is_public(address: str) -> bool:
    """True if the IP address is globally routable unicast. An IPv4 address embedded in an IPv6 one counts."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip.sixtofour or ip.teredo or ip not in _ROUTED:
            return False
    return ip.is_global and not ip.is_multicast
