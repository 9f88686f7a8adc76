"""The settings of one provider key: what it asks with, and what it may ask for."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, SecretStr

FIRST_KEY = "k1"  # what the key in a provider's own table is called


def _named(name: str) -> str:
    # It becomes part of a subject and of a stream's name.
    if not re.fullmatch(r"[a-z0-9_-]{1,32}", name):
        raise ValueError(f"{name!r}: name a key by 1 to 32 of a-z, 0-9, _ and -")
    if name == FIRST_KEY:
        raise ValueError(f"{name}: this is the key in the provider's own table; name it otherwise")
    return name


def _window(name: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,5}s", name):
        raise ValueError(f"{name!r}: give a window's length in seconds, as in 600s")
    return name


KeyName = Annotated[str, AfterValidator(_named)]
WindowName = Annotated[str, AfterValidator(_window)]


class Section(BaseModel):
    """A table of the settings: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeySettings(Section):
    """One key of a provider and what it allows; a limit of 0 means none.

    `windows`: limits over other lengths, by seconds: `{"600s": 60}`. `symbols_per_month`: different symbols, not calls.
    """

    api_key: SecretStr | None = None
    api_secret: SecretStr | None = None
    refresh_token: SecretStr | None = None
    per_second: int | None = Field(default=None, ge=0)
    per_minute: int | None = Field(default=None, ge=0)
    per_hour: int | None = Field(default=None, ge=0)
    per_day: int | None = Field(default=None, ge=0)
    per_month: int | None = Field(default=None, ge=0)
    symbols_per_month: int | None = Field(default=None, ge=0)
    windows: dict[WindowName, NonNegativeInt] = {}
