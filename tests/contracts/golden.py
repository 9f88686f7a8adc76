"""The golden files of every message: an example, and the JSON Schema. `python -m tests.contracts.golden` writes them again."""

import importlib
import pkgutil
from pathlib import Path

import msgspec

import contracts
from contracts.message import Message

FOLDER = Path(contracts.__file__).parent / "golden"


def messages() -> dict[str, type[Message]]:
    """Every message by its type tag, found by looking."""
    for module in pkgutil.iter_modules(contracts.__path__):
        importlib.import_module(f"contracts.{module.name}")
    found: dict[str, type[Message]] = {}
    waiting = [Message]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("contracts.") and not kind.__name__.startswith("_") and kind is not Message:
            found[str(kind.__struct_config__.tag)] = kind
    return dict(sorted(found.items()))


def schema(kind: type[Message]) -> bytes:
    """The JSON Schema of a message, as it is committed."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(kind), order="sorted"), indent=2) + b"\n"


def write() -> None:
    """Write every schema; an example that is there stays, a missing one has to be written by hand."""
    for tag, kind in messages().items():
        (FOLDER / f"{tag}.schema.json").write_bytes(schema(kind))
        if not (FOLDER / f"{tag}.example.json").exists():
            print(f"{tag}: write an example to {FOLDER.name}/{tag}.example.json")


if __name__ == "__main__":
    write()
