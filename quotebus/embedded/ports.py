"""Loopback ports: which are free, and what answers on them."""

import asyncio
import random
import socket
from collections.abc import Iterator
from itertools import cycle

LOOPBACK = "127.0.0.1"
# Below the range from which systems take the ports of outgoing connections: no such connection can sit on
# a port of ours between a server's end and its restart.
OURS = range(20000, 32000)


def in_any_order(ports: range) -> Iterator[int]:
    """Each of them in turn, over and over."""
    return cycle(random.sample(ports, len(ports)))


_turns = in_any_order(OURS)


def is_free(port: int) -> bool:
    """True if a server can listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: connections of the last run that are still winding down do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Some free loopback port; nothing reserves it, so whoever takes it must be ready to ask for another.

    This process itself is not given it again for long, so those it starts at once do not take each other's.
    """
    for _ in range(200):
        port = next(_turns)
        if is_free(port):
            return port
    raise OSError(f"no free port found between {OURS.start} and {OURS.stop} on {LOOPBACK}")


def port_or_free(preferred: int) -> int:
    """The preferred port when it is free, else some free one; 0 prefers none."""
    return preferred if preferred and is_free(preferred) else free_port()


async def reply(port: int, question: bytes, size: int) -> bytes:
    """The first bytes a loopback server says, after `question` if there is one; none when nobody listens or answers."""
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return b""
    try:
        writer.write(question)
        async with asyncio.timeout(1.0):
            return await reader.readexactly(size)
    except (OSError, EOFError, TimeoutError):
        return b""
    finally:
        writer.close()
