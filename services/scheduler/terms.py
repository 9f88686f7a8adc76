"""What a clock is told of the settings, in a form that takes no library of settings to read."""

from msgspec import Struct

from contracts.job import Job


class Hidden(Struct, frozen=True):
    """A secret, which no printing shows."""

    text: str

    def get_secret_value(self) -> str:
        """The text itself."""
        return self.text

    def __repr__(self) -> str:
        return "***"


class Nats(Struct, frozen=True):
    url: str
    user: str | None
    password: Hidden | None
    credentials_file: str | None


class Listening(Struct, frozen=True):
    host: str
    port: int


class Log(Struct, frozen=True):
    level: str
    format: str


class Terms(Struct, frozen=True):
    """`enabled`: whether it may ask. `jobs`: those of the settings. `secrets`: texts that no log line may show."""

    enabled: bool
    nats: Nats
    health: Listening
    log: Log
    jobs: list[Job]
    secrets: list[Hidden]
