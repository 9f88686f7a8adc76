"""A job's `session`: times that are counted from the open and the close of an exchange's session."""

import re
from dataclasses import dataclass
from typing import Literal

_UNITS = {"s": 1, "m": 60, "h": 3600}
_MOST_S = 24 * 3600
_EDGE = r"(open|close)(?:([+-])(\d{1,5})([smh]))?"
_SPELT = re.compile(rf"{_EDGE}|every (\d{{1,5}})([smh])(?: from {_EDGE})?(?: to {_EDGE})?")
_RIGHT = "give open+5m, close-10m, every 15m, or every 15m from open+5m to close-10m"


@dataclass(frozen=True)
class Edge:
    """So many seconds after the open or the close; before it if negative."""

    side: Literal["open", "close"]
    offset_s: int = 0


@dataclass(frozen=True)
class SessionTimes:
    """The instant `start` of each session; with `every_s`, that and so on until `end`, which is included."""

    start: Edge
    end: Edge
    every_s: int | None = None


def parse_session(text: str) -> SessionTimes:
    """The times of such a text; lengths are whole numbers of s, m or h. `every` goes from open to close unless it says otherwise.

    Raises:
        ValueError: it is none; the text names the field.
    """
    found = _SPELT.fullmatch(text)
    if found is None:
        raise ValueError(f"session: {text!r} is no time of a session; {_RIGHT}")
    if found[5] is None:
        start = end = _edge(found.groups()[:4])
        return SessionTimes(start, end)
    every_s = int(found[5]) * _UNITS[found[6]]
    if not 0 < every_s <= _MOST_S:
        raise ValueError(f"session: every {found[5]}{found[6]}: give 1s to 24h")
    start = _edge(found.groups()[6:10]) if found[7] else Edge("open")
    end = _edge(found.groups()[10:14]) if found[11] else Edge("close")
    return SessionTimes(start, end, every_s)


def _edge(parts: tuple[str | None, ...]) -> Edge:
    side, sign, number, unit = parts
    offset_s = int(number) * _UNITS[unit] if number and unit else 0
    if offset_s > _MOST_S:
        raise ValueError(f"session: {side}{sign}{number}{unit} is more than a day off; {_RIGHT}")
    return Edge("open" if side == "open" else "close", -offset_s if sign == "-" else offset_s)
