"""`endpoints.json`: where the servers and services of a running `quotebus up` are to be reached."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE_NAME = "endpoints.json"


@dataclass(frozen=True)
class Endpoints:
    """URLs of the stack's servers. `postgres` holds a password. `health`: by service."""

    nats: str
    postgres: str
    redis: str
    http: str | None = None
    health: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The settings of every process that shall use these servers."""
        return {"QUOTEBUS_NATS__URL": self.nats, "QUOTEBUS_POSTGRES__DSN": self.postgres, "QUOTEBUS_REDIS__URL": self.redis}

    def write(self, folder: Path) -> None:
        """Put them into the folder's file, whole at once and readable by its owner alone: it holds the password."""
        file = folder / FILE_NAME
        draft = file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as text:
            json.dump(asdict(self), text, indent=2)
        draft.replace(file)
