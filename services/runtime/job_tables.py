"""The `[[job]]` tables of the settings: checked where they are read, and made into jobs."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated

import msgspec
from pydantic import AfterValidator

from contracts.job import Job
from services.runtime.job_life import WAITS_FOR_PROVIDER
from services.runtime.key_settings import KeySettings

# The value of `enabled` of a job that waits for a provider.
AUTO = "auto"
# The provider that asks nobody, and so needs no table and no key.
DERIVED = "derived"


def checked_job(table: dict[str, object]) -> dict[str, object]:
    """The table, if a job can be made of it.

    Raises:
        ValueError: one line that names the field.
    """
    for key in table.keys() - set(Job.__struct_fields__):
        close = get_close_matches(key, Job.__struct_fields__, 1)
        raise ValueError(f"{key}: no such setting of a job" + (f"; did you mean {close[0]}?" if close else ""))
    job_of(table, works=True)
    return table


JobTable = Annotated[dict[str, object], AfterValidator(checked_job)]


def job_of(table: Mapping[str, object], *, works: bool) -> Job:
    """The job of a table. `works`: whether a provider that it waits for is there."""
    life: dict[str, object] = {"origin": "settings"}
    if waits(table):
        life |= {"enabled": works, "paused_reason": None if works else WAITS_FOR_PROVIDER}
    return msgspec.convert({**table, **life}, Job)


def waits(table: Mapping[str, object]) -> bool:
    """Whether the job is enabled only when a provider works."""
    return table.get("enabled") == AUTO


def is_set_up(account: KeySettings, further: Mapping[str, KeySettings], *, enabled: bool | None) -> bool:
    """Whether somebody has set this provider up: it is enabled by name, or has a secret. What each needs, its adapter knows."""
    keys = (account, *further.values())
    return enabled is not False and (enabled is True or any(key.api_key or key.api_secret or key.refresh_token for key in keys))
