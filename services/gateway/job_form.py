"""A job as people send it: with a job's own fields, or in short: a name, the stocks, a time of day."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from contracts.job import TimeOfDay
from services.gateway.problems import field_problem
from services.gateway.reading import checked_symbol
from services.runtime.universe_settings import unknown_universe

# What GET adds or the bucket decides: whoever sends back what they were given need not take it out.
READ_ONLY = frozenset({"type", "revision", "next_at", "cost", "too_small", "origin", "enabled_at"})
SHORT = {"name": "id", "stock_ids": "symbols", "schedule_time": "at"}
_LONGEST_ID = 64


def job_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job, whichever way they were sent; what they hold is for the contract to check.

    Raises:
        Problem: 422.
    """
    fields = {name: value for name, value in body.items() if name not in READ_ONLY and name not in SHORT}
    for short, name in SHORT.items():
        if short not in body:
            continue
        if name in fields:
            raise field_problem(422, short, f"give {short} or {name}, not both")
        fields[name] = _SPELLED[short](body[short])
    if isinstance(fields.get("symbols"), list):
        named = "stock_ids" if "stock_ids" in body else "symbols"
        fields["symbols"] = [_symbol(each, f"{named}[{n}]") for n, each in enumerate(fields["symbols"])]
    return fields


def check_universe(name: object, defined: Iterable[str]) -> None:
    """Refuse a universe that the settings do not define.

    Raises:
        Problem: 422.
    """
    if fault := unknown_universe(name, defined):
        raise field_problem(422, "universe", fault)


def _id_of(name: object) -> str:
    # Letters with something above or below them become those without.
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower() if isinstance(name, str) else ""
    made = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:_LONGEST_ID].rstrip("-")
    if not made:
        raise field_problem(422, "name", f"{str(name)[:80]!r} has no letter or digit to make an id of")
    return made


def _symbol(text: object, field: str) -> str:
    if not isinstance(text, str):
        raise field_problem(422, field, f"{str(text)[:80]!r} is no symbol; give texts such as AAPL or BRK.B")
    return checked_symbol(text, field, 422)


def _stocks(stocks: object) -> list[object]:
    if not isinstance(stocks, list):
        raise field_problem(422, "stock_ids", f'{str(stocks)[:80]!r} is no list; give one such as ["AAPL"]')
    return stocks


def _at(time: object) -> list[str]:
    times = time if isinstance(time, list) else [time]
    try:
        return msgspec.convert(times, list[TimeOfDay])
    except msgspec.ValidationError:
        raise field_problem(422, "schedule_time", f"{str(time)[:80]!r} is no time of day; give one such as 17:00") from None


_SPELLED: Mapping[str, Callable[[Any], object]] = {"name": _id_of, "stock_ids": _stocks, "schedule_time": _at}
