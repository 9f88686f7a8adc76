"""How long work shows that it goes on: on stderr, and only where somebody looks at a terminal."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A sign of life beside the text while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def steps(items: Sequence[T], text: str) -> Iterable[T]:
    """The items, with a bar that tells how many of them are done."""
    if not sys.stderr.isatty() or len(items) < 2:
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, text, console=Console(stderr=True), transient=True)
