"""Progress of long work: on stderr, and only on a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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


@contextmanager
def counting(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar beside the text while the block runs; it is told how many are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(text, total=total)
        yield lambda done: progress.update(bar, completed=done)
