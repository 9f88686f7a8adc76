"""Says which service uses which secrets, and takes all others out of its environment and its settings.

Every service has the account of the bus. What a service has no use for it cannot leak, whatever else is wrong with it.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from services.runtime.settings.build import Kind, SettingPath, fields_of, kind_at, kind_below, kind_of
from services.runtime.settings.model import Secret, Settings

# The tables whose secrets a service uses.
SECRETS_USED: Mapping[str, frozenset[str]] = {
    "scheduler": frozenset({"nats"}),
    "fetcher": frozenset({"nats", "postgres", "providers", "universes"}),
    "cacher": frozenset({"nats", "postgres", "redis"}),
    "gateway": frozenset({"nats", "postgres", "redis", "gateway"}),
    "notifier": frozenset({"nats", "notify"}),
}
PREFIX = "QUOTEBUS_"
_POSTGRES_PASSWORD = "PGPASSWORD"  # noqa: S105  (the variable's name, read where an address has no password)
_GONE = object()


def path_of(variable: str) -> SettingPath:
    """The path of the setting that a variable of this name gives."""
    return tuple(variable.lower().removeprefix(PREFIX.lower()).split("__"))


def environment_for(service: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without secrets that this service does not use; of a program that is none of ours as it is."""
    used = SECRETS_USED.get(service)
    if used is None:
        return dict(environment)
    return {name: text for name, given in environment.items() if (text := _variable(name, given, used)) is not None}


def tree_for(service: str, tree: Mapping[str, object]) -> dict[str, object]:
    """The tables of the settings without secrets that this service does not use."""
    used = SECRETS_USED.get(service)
    if used is None:
        return dict(tree)
    sections = fields_of(Settings)
    kept = {name: value if name in used else _without_secrets(sections.get(name), value) for name, value in tree.items()}
    return {name: value for name, value in kept.items() if value is not _GONE}


def _variable(name: str, text: str, used: Collection[str]) -> str | None:
    if name == _POSTGRES_PASSWORD:
        return text if "postgres" in used else None
    path = path_of(name)
    if not name.upper().startswith(PREFIX) or path[0] in used:
        return text
    if any(_is_secret(kind) for kind in _kinds_along(path)):
        return None
    kind = kind_at(path)
    return text if kind is None or not kind.is_compound else _json(kind, text)


def _json(kind: Kind, text: str) -> str | None:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return None  # nobody knows what stands in it
    left = _without_secrets(kind, tree)
    if left is _GONE:
        return None
    return text if left == tree else json.dumps(left)


def _without_secrets(kind: Kind | None, value: Any) -> Any:
    if kind is None:
        return value
    if _is_secret(kind):
        return _GONE
    if isinstance(value, Mapping):
        below = {name: _without_secrets(kind_below(kind, name), each) for name, each in value.items()}
        return {name: each for name, each in below.items() if each is not _GONE}
    if isinstance(value, list):
        return [left for each in value if (left := _without_secrets(kind.item, each)) is not _GONE]
    return value


def _is_secret(kind: Kind) -> bool:
    """True if the type is a secret, or a table with a required secret."""
    if not kind.is_section:
        return kind.base is Secret
    required = {each.name for each in msgspec.structs.fields(kind.base) if each.required}
    return any(fields_of(kind.base)[name].base is Secret for name in required)


def _kinds_along(path: SettingPath) -> Iterator[Kind]:
    kind: Kind | None = kind_of(Settings)
    for part in path:
        kind = kind_below(kind, part) if kind is not None else None
        if kind is None:
            return
        yield kind
