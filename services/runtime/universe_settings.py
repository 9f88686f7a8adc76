"""The settings of a universe: which symbols a request or a job means by its name."""

import difflib
from collections.abc import Iterable
from typing import Annotated

import msgspec
from pydantic import AfterValidator, Field, PositiveInt, SecretStr

from contracts.message import UniverseName
from services.runtime.key_settings import Section


def _named(name: str) -> str:
    # Jobs and requests name it.
    try:
        return msgspec.convert(name, UniverseName)
    except msgspec.ValidationError:
        raise ValueError(f"{name!r}: name a universe by 1 to 64 of a-z, 0-9, _ and -, the first no -") from None


NamedUniverse = Annotated[str, AfterValidator(_named)]
WATCHLIST, ACTIVE = "watchlist", "active"
BUILT_IN = (WATCHLIST, ACTIVE)


class UniverseSettings(Section):
    """`sql`: gives the column `symbol`, else its first is meant; the most important first, or by a column `priority`, the lowest
    first; $1 is `pre_populate` (text[]), $2 `active_days`.

    `dsn`: another database than ours. `active_days`: traded within so many days counts as active. `pre_populate`: symbols that
    belong to it anyway.
    """

    sql: str | None = None
    dsn: SecretStr | None = None
    active_days: PositiveInt = 30
    pre_populate: list[str] = Field(default_factory=list)
    timeout_s: float = Field(default=10.0, gt=0, le=600)


def unknown_universe(name: object, defined: Iterable[str]) -> str | None:
    """What is wrong with this name of a universe; None when it is one of ours or `defined`, or no universe is named."""
    known = sorted({*BUILT_IN, *defined})
    if name is None or name in known:
        return None
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)};"
    return f"universe {name} is not defined; {hint} A further one is a table [universes.{name}] with its sql"
