"""Grammar of when a job runs: trading-session anchors, day selectors and calendar codes, as text in a job."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

_UNITS = {"s": 1, "m": 60, "h": 3600}
_MOST_S = 24 * 3600
_ANCHOR = r"(open|close)(?:([+-])(\d{1,5})([smh]))?"
_SPELLINGS = re.compile(rf"{_ANCHOR}|every (\d{{1,5}})([smh])(?: from {_ANCHOR})?(?: to {_ANCHOR})?")
_EXAMPLES = "give open+5m, close-10m, every 15m, or every 15m from open+5m to close-10m"

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LAST, LAST_OF_WEEK = "last", "last-of-week"
_WEEKDAY = "|".join(WEEKDAYS)
_RANGE = re.compile(rf"({_WEEKDAY})(?:-({_WEEKDAY}))?")
_MONTH_DAY = re.compile(r"[1-9]|[12]\d|3[01]")

# Left out: what is open round the clock, for which no calendar is needed, and those that exchange_calendars 4.13 cannot make.
_CODES = """
AIXK BVMF CMES IEPA XAMS XASX XBDA XBKK XBOG XBOM XBRA XBRU XBUD XBUE XCBF XCSE XDUB XDUS XEEE XETR XEUR XFRA XHAM XHEL XHKG
XICE XIDX XIST XJSE XKAR XKLS XKRX XLIM XLIS XLIT XLJU XLON XLUX XMAD XMEX XMIL XMOS XNYS XNZE XOSL XPAR XPHS XPRA XRIS XSAU
XSES XSGO XSHG XSTO XSTU XSWX XTAI XTAL XTKS XTSE XWAR XWBO XZAG
"""
CALENDARS = frozenset(_CODES.split())


@dataclass(frozen=True)
class SessionAnchor:
    """So many seconds after the open or the close; before it if negative."""

    side: Literal["open", "close"]
    offset_s: int = 0


@dataclass(frozen=True)
class SessionTimes:
    """The instant `start` of each session; with `every_s`, that and so on until `end`, which is included."""

    start: SessionAnchor
    end: SessionAnchor
    every_s: int | None = None


def parse_session(text: str) -> SessionTimes:
    """The times of such a text; lengths are whole numbers of s, m or h. `every` goes from open to close unless it says otherwise.

    Raises:
        ValueError: it is none; the text names the field.
    """
    found = _SPELLINGS.fullmatch(text)
    if found is None:
        raise ValueError(f"session: {text!r} is no time of a session; {_EXAMPLES}")
    if found[5] is None:
        start = end = _anchor(found.groups()[:4])
        return SessionTimes(start, end)
    every_s = int(found[5]) * _UNITS[found[6]]
    if not 0 < every_s <= _MOST_S:
        raise ValueError(f"session: every {found[5]}{found[6]}: give 1s to 24h")
    start = _anchor(found.groups()[6:10]) if found[7] else SessionAnchor("open")
    end = _anchor(found.groups()[10:14]) if found[11] else SessionAnchor("close")
    return SessionTimes(start, end, every_s)


def _anchor(parts: tuple[str | None, ...]) -> SessionAnchor:
    side, sign, number, unit = parts
    offset_s = int(number) * _UNITS[unit] if number and unit else 0
    if offset_s > _MOST_S:
        raise ValueError(f"session: {side}{sign}{number}{unit} is more than a day off; {_EXAMPLES}")
    return SessionAnchor("open" if side == "open" else "close", -offset_s if sign == "-" else offset_s)


@dataclass(frozen=True)
class DaySelector:
    """The days that any of the words names. `weekdays`: 0 is Monday. `last`, `last_of_week`: the last one of a month or week."""

    weekdays: frozenset[int] = frozenset()
    month_days: frozenset[int] = frozenset()
    last: bool = False
    last_of_week: bool = False


def parse_days(words: Iterable[str]) -> DaySelector:
    """The days of these words: mon to sun, ranges such as mon-fri or fri-mon, 1 to 31, last, last-of-week.

    Raises:
        ValueError: a word is none of them; the text names the field and the word.
    """
    weekdays: set[int] = set()
    month_days: set[int] = set()
    names = set(words)
    for word in names - {LAST, LAST_OF_WEEK}:
        if found := _RANGE.fullmatch(word):
            first, last = (WEEKDAYS.index(found[n] or found[1]) for n in (1, 2))
            weekdays |= {(first + n) % 7 for n in range((last - first) % 7 + 1)}
        elif _MONTH_DAY.fullmatch(word):
            month_days.add(int(word))
        else:
            raise ValueError(f"days: {word!r} is no day; give mon to sun, mon-fri, 1 to 31, last, or last-of-week")
    return DaySelector(frozenset(weekdays), frozenset(month_days), LAST in names, LAST_OF_WEEK in names)


def check_calendar(code: str) -> None:
    """Return if there is such a calendar.

    Raises:
        ValueError: there is none; the text names the nearest ones.
    """
    if code in CALENDARS:
        return
    near = get_close_matches(code.upper(), sorted(CALENDARS), 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "give one such as XNYS (New York), XLON (London), XTKS (Tokyo)"
    raise ValueError(f"calendar: {code!r} is none that is known; {hint}")
