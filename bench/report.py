"""What a measurement gives, and how it is shown."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Figure:
    """A ratio or an amount, and the target of the design: at least so much, or `at_most`; None: only to know."""

    name: str
    value: float
    target: float | None
    note: str = ""
    at_most: bool = False

    def line(self) -> str:
        """The figure beside its target."""
        sign = "≤" if self.at_most else "≥"
        target = f"{sign} {self.target:g}" if self.target is not None else ""
        reached = self.target is None or (self.value <= self.target if self.at_most else self.value >= self.target)
        return f"{self.name:<56} {self.value:>10.3f}  {target:>9} {'' if reached else 'MISSED':<6}  {self.note}"


def show(title: str, figures: Iterable[Figure]) -> None:
    """Print the figures of one measurement."""
    print(f"\n{title}", flush=True)
    for figure in figures:
        print(f"  {figure.line()}", flush=True)


def machine() -> str:
    """The size of this machine."""
    return f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
