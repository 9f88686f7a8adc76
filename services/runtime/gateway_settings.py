"""The settings of HTTP: where it answers, who may do what, and how much of it."""

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator

from services.runtime.key_settings import Section


class TokenSettings(Section):
    """Somebody who may use the gateway: the SHA-256 of their bearer token, in hex. Who may `operate` may also `read`."""

    sha256: SecretStr
    scopes: list[Literal["read", "operate"]] = ["operate"]

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[0-9a-f]{64}", value.get_secret_value()):
            raise ValueError("give the 64 hex digits that `printf %s TOKEN | sha256sum` prints")
        return value


class GatewaySettings(Section):
    """HTTP. `trust_loopback`: no token is needed while `host` is a loopback address; `quotebus up` sets it.

    `refreshes_per_minute`: so many symbols at most are asked for because somebody read a stale price; 0: none.
    `streams`: event streams open at once. `slow_client_s`: a reader that takes nothing for so long is cut off.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8088
    tokens: dict[str, TokenSettings] = {}
    read_without_token: bool = True
    trust_loopback: bool = False
    refreshes_per_minute: int = Field(default=60, ge=0)
    max_body_bytes: PositiveInt = 256 * 1024
    streams: PositiveInt = 100
    slow_client_s: PositiveFloat = 10.0
