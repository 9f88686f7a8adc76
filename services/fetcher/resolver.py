"""Names to addresses, without those at which no vendor can be; what is defended by that stands in `origin.py`."""

import socket
from contextvars import ContextVar

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from services.fetcher.origin import refusal_of

# Whether the host of the request at hand may have a private address.
MAY_BE_PRIVATE: ContextVar[bool] = ContextVar("may_be_private", default=False)


class AddressRefusedError(OSError):
    """A name led to an address that is not to be connected to."""


class GuardedResolver(AbstractResolver):
    """Looks names up, and refuses those that lead where no vendor is."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of a name.

        Raises:
            AddressRefusedError: one of them is not to be connected to.
        """
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            if problem := refusal_of(each["host"], private=MAY_BE_PRIVATE.get()):
                raise AddressRefusedError(problem)
        return found

    async def close(self) -> None:
        """Close the resolver that is asked."""
        await self._resolver.close()
