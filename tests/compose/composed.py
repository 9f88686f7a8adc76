"""compose.yaml and the Dockerfile as a test reads them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OURS = ("migrate", "scheduler", "fetcher", "cacher", "gateway", "notifier")
SERVERS = ("nats", "postgres", "redis")
PLAYED = "simulate"
_VARIABLE = re.compile(r"\$\{(\w+):-([^{}]*)\}")


def compose_file() -> dict[str, Any]:
    """The file as compose sees it where no variable is set."""
    text = _VARIABLE.sub(r"\2", (ROOT / "compose.yaml").read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def command(service: dict[str, Any]) -> list[str]:
    """What its container runs."""
    return [str(part) for part in service["command"]]


def health_command(service: dict[str, Any]) -> list[str]:
    """What is run in the container to see whether it is well."""
    kind, *words = service["healthcheck"]["test"]
    assert kind == "CMD"
    return words


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile, continuations joined. `words`: without the instruction's name."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def dockerfile_stages() -> list[list[Instruction]]:
    """The instructions of each stage; every stage begins with its FROM."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    stages: list[list[Instruction]] = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                stages.append([])
            stages[-1].append(Instruction(name, rest.strip()))
    return stages


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets for every container, but for PATH."""
    variables = [word for each in dockerfile_stages()[-1] if each.name == "ENV" for word in each.words]
    pairs = dict(word.split("=", 1) for word in variables)
    return {name: value for name, value in pairs.items() if name != "PATH"}
