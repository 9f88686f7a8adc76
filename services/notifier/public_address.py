"""Sockets to public addresses alone. The address looked at is the one connected to, so no name can mean another by then."""

import socket
from typing import Any

from services.runtime.addresses import is_public


class PrivateAddressError(OSError):
    """The address is this machine's, this network's, or nobody's."""


def public_socket(where: tuple[Any, ...]) -> socket.socket:
    """A socket for one address that a name was resolved to.

    Raises:
        PrivateAddressError: the address is not public.
    """
    family, kind, protocol, _, address = where
    if not is_public(str(address[0])):
        raise PrivateAddressError(f"{address[0]} is no public address: set allow_private if that is meant")
    return socket.socket(family, kind, protocol)
