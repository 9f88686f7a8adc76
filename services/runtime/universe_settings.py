"""The settings of a universe: which symbols a request or a job means by its name."""

import difflib
from collections.abc import Iterable

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr

from services.runtime.key_settings import Section

WATCHLIST, ACTIVE = "watchlist", "active"
BUILT_IN = (WATCHLIST, ACTIVE)


class UniverseSettings(Section):
    """`sql`: one column, the symbol, the most important first; $1 is `pre_populate` (text[]), $2 `active_days`.

    `dsn`: another database than ours. `active_days`: traded within so many days counts as active. `pre_populate`: symbols that
    belong to it anyway.
    """

    sql: str | None = None
    dsn: SecretStr | None = None
    active_days: PositiveInt = 30
    pre_populate: list[str] = Field(default_factory=list)
    timeout_s: PositiveFloat = 10.0


def unknown_universe(name: object, defined: Iterable[str]) -> str | None:
    """What is wrong with this name of a universe; None when it is one of ours or `defined`, or no universe is named."""
    known = sorted({*BUILT_IN, *defined})
    if name is None or name in known:
        return None
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)};"
    return f"universe {name} is not defined; {hint} A further one is a table [universes.{name}] with its sql"
