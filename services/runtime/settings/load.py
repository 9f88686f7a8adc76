"""Reads the settings: quotebus.toml, then secret files, then the environment, the later one winning.

Where those configure neither a provider nor a job, and `demo` is true, the made-up market takes their place.
"""

import json
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, get_origin

import msgspec

from services.runtime.settings.build import UNKNOWN, Kind, SettingPath, build_settings, fields_of, kind_at, kind_of
from services.runtime.settings.model import BUILT_IN, InvalidSettingsError, Settings, is_auto
from services.runtime.settings.secret_scope import PREFIX, path_of, tree_for

CONFIG_VARIABLE, SECRETS_VARIABLE = "QUOTEBUS_CONFIG", "QUOTEBUS_SECRETS_DIR"
DEFAULT_FILE, DEFAULT_SECRETS = Path("quotebus.toml"), Path("/run/secrets")
# Read on the way to the settings, or by the command line, and no settings themselves.
NO_SETTINGS = frozenset({CONFIG_VARIABLE, SECRETS_VARIABLE, "QUOTEBUS_DATA"})

DEMO_PROVIDER = "synthetic"
DEMO_SYMBOLS = ["AAPL", "BRK.B", "MSFT", "NVDA", "SPY", "BTC-USD"]  # the last one trades round the clock
DEMO_JOBS: list[dict[str, Any]] = [
    {"id": "demo-quotes", "every_s": 5, "dataset": "quote", "symbols": DEMO_SYMBOLS, "provider": DEMO_PROVIDER},
    {"id": "demo-bars", "every_s": 300, "dataset": "bars", "timeframe": "1d", "symbols": DEMO_SYMBOLS, "provider": DEMO_PROVIDER},
]
# What the jobs that ship are for: nobody has filled a table yet.
DEMO_UNIVERSES = {name: {"pre_populate": DEMO_SYMBOLS} for name in BUILT_IN}


class SettingsError(Exception):
    """The settings cannot be used: one line per problem, each naming the key, where it stands and what is right."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Layer:
    """Settings of one source. `kind`: file, secret file, environment, demo or server. `name`: the file's path, or the variable."""

    kind: str
    name: str
    tree: dict[str, object]

    def depth(self, path: SettingPath) -> int:
        """Number of leading parts of the path that this layer holds."""
        node: object = self.tree
        for depth, part in enumerate(path):
            if not isinstance(node, dict) or part not in node:
                return depth
            node = node[part]
        return len(path)

    def spell(self, path: SettingPath) -> str:
        """The path as it is written in such a source."""
        return ".".join(path) if self.kind == "file" else PREFIX + "__".join(path).upper()


@dataclass(frozen=True)
class Loaded:
    """Settings, and the layers they were made of, the weakest first."""

    settings: Settings
    layers: tuple[Layer, ...]

    def origin(self, *path: str) -> str:
        """Source of this setting's value: `default`, a file, or a variable."""
        layer = _strongest(self.layers, path)
        return f"{layer.kind} {layer.name}" if layer is not None and layer.depth(path) == len(path) else "default"


def load_settings(
    path: Path | None = None, known_providers: Collection[str] | None = None, *, service: str | None = None
) -> Settings:
    """The settings of this process; see `read_settings`. Those of a `service` have no secrets but those that it uses."""
    return read_settings(path, known_providers, service=service).settings


def read_settings(
    path: Path | None = None, known_providers: Collection[str] | None = None, *, demo: bool = False, service: str | None = None
) -> Loaded:
    """Read every source. `path`: the settings file, else $QUOTEBUS_CONFIG, else ./quotebus.toml if there is one.

    Empty variables and empty secret files say nothing. With `known_providers` a provider of another name is an error.
    `demo`: as if the setting of that name were true.

    Raises:
        SettingsError: with all that is wrong, an unknown key included.
    """
    problems: list[str] = []
    layers = (*_file(path, problems), *_secret_files(problems), *_environment(problems))
    if service is not None:
        layers = tuple(replace(layer, tree=tree_for(service, layer.tree)) for layer in layers)
    merged: dict[str, object] = {}
    for layer in layers:
        merged = _merge(merged, layer.tree)
    settings = Settings()
    try:
        settings = build_settings(merged)
        if (settings.demo or demo) and not is_configured(settings):
            added = demo_settings(merged)
            layers = (Layer("demo", "market", added), *layers)
            settings = build_settings({**merged, **added})
    except InvalidSettingsError as error:
        problems += [_describe(layers, fault.path, fault.text) for fault in error.faults]
    problems += _unknown_providers(layers, merged, known_providers)
    if problems:
        raise SettingsError(sorted(set(problems)))
    return Loaded(settings, layers)


def is_configured(settings: Settings) -> bool:
    """True if the settings have a provider, or a job that is not enabled automatically."""
    return bool(settings.providers) or not all(is_auto(table) for table in settings.job)


def demo_settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Demo settings, added to settings that are not configured."""
    universes = {**DEMO_UNIVERSES, **tree.get("universes", {})}
    return {"providers": {DEMO_PROVIDER: {"enabled": True}}, "universes": universes, "job": [*tree.get("job", []), *DEMO_JOBS]}


def without_demo(settings: Settings) -> Settings:
    """The settings without the jobs of the demonstration."""
    return msgspec.structs.replace(settings, job=[table for table in settings.job if table not in DEMO_JOBS])


def _unknown_providers(layers: Sequence[Layer], tree: Mapping[str, object], known: Collection[str] | None) -> list[str]:
    named = tree.get("providers")
    if known is None or not isinstance(named, dict):
        return []
    return [_describe(layers, ("providers", name), UNKNOWN, sorted(known)) for name in named.keys() - set(known)]


def _file(path: Path | None, problems: list[str]) -> Iterator[Layer]:
    named = path or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    file = named or DEFAULT_FILE
    if named is None and not file.exists():
        return
    try:
        yield Layer("file", str(file), tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}; give another with --config or {CONFIG_VARIABLE}")
    except ValueError as error:
        problems.append(f"{file}: not TOML: {error}")


def _secret_files(problems: list[str]) -> Iterator[Layer]:
    named = os.environ.get(SECRETS_VARIABLE)
    folder = Path(named) if named else DEFAULT_SECRETS
    if not folder.is_dir():
        if named:
            problems.append(
                f"environment: {SECRETS_VARIABLE}: {folder} is no folder; give the one that holds the secret files, or unset it"
            )
        return
    found = {}
    for file in sorted(folder.iterdir()):
        # Other programs' secrets may lie in the same folder.
        if file.name.upper().startswith(PREFIX) and file.is_file():
            try:
                found[str(file)] = file.read_text(encoding="utf-8").strip()
            except OSError as error:
                problems.append(f"secret file {file}: cannot be read: {error.strerror}; let this user read it, or remove it")
            except UnicodeDecodeError:
                problems.append(f"secret file {file}: not a text in UTF-8")
    yield from _variables("secret file", found, problems)


def _environment(problems: list[str]) -> Iterator[Layer]:
    ours = {name: text for name, text in os.environ.items() if name.upper().startswith(PREFIX) and name not in NO_SETTINGS}
    yield from _variables("environment", ours, problems)


def _variables(kind: str, texts: Mapping[str, str], problems: list[str]) -> Iterator[Layer]:
    """One layer a variable, so that a fault names the variable. A name may be a file's path: its last part counts."""
    for name, text in sorted(texts.items()):
        if not text:
            continue
        path = path_of(Path(name).name)
        target = kind_at(path)
        if target is None:
            problems.append(_describe((Layer(kind, name, _nested(path, text)),), path, UNKNOWN))
            continue
        try:
            yield Layer(kind, name, _nested(path, _value(target, text)))
        except (ValueError, RecursionError):
            problems.append(f"{kind}: {name}: not JSON, which a list or a table has to be written in")


def _value(kind: Kind, text: str) -> object:
    if kind.is_compound:
        return json.loads(text)
    return _number_or_text(text) if get_origin(kind.base) is UnionType else text


def _number_or_text(text: str) -> object:
    with suppress(ValueError):
        return float(text)
    return text


def _nested(path: SettingPath, value: object) -> dict[str, object]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _merge(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _strongest(layers: Sequence[Layer], path: SettingPath) -> Layer | None:
    """The layer whose value of this path counts: the last of those that hold most of it."""
    best = max(layers, key=lambda layer: layer.depth(path), default=None)
    if best is None or not best.depth(path):
        return None
    return next(layer for layer in reversed(layers) if layer.depth(path) == best.depth(path))


def _describe(layers: Sequence[Layer], path: SettingPath, fault: str, choices: Collection[str] | None = None) -> str:
    """One line on this setting. `choices`: of its last part, if the model does not say."""
    layer = _strongest(layers, path)
    if layer is None:
        return f"{'.'.join(path)}: {fault}"
    where = f"{layer.name}: {'.'.join(path)}" if layer.kind == "file" else f"{layer.kind}: {layer.name}"
    if fault != UNKNOWN:
        # One variable may give a whole table: then its name does not say which part of it is meant.
        inside = _below_variable(layer, path)
        return f"{where}: {f'{inside}: ' if inside else ''}{fault}"
    return f"{where}: no such setting{_instead(layer, path, choices)}"


def _below_variable(layer: Layer, path: SettingPath) -> str:
    named = path_of(Path(layer.name).name) if layer.kind in ("secret file", "environment") else path
    return ".".join(path[len(named) :])


def _instead(layer: Layer, path: SettingPath, choices: Collection[str] | None) -> str:
    right = [(*path[:-1], choice) for choice in choices] if choices is not None else list(_paths(kind_of(Settings), (), path))
    siblings = [each for each in right if each[:-1] == path[:-1]]
    if len(path) > 1 and siblings:
        by_text = {each[-1]: each for each in siblings}
        close = get_close_matches(path[-1], by_text, 1)
    else:
        # The table itself is wrong, or NATS_URL was written for NATS__URL.
        by_text = {"_".join(each): each for each in right}
        close = get_close_matches("_".join(path), by_text, 1)
    if close:
        return f"; did you mean {layer.spell(by_text[close[0]])}?"
    return f"; there are {', '.join(each[-1] for each in siblings)}" if siblings else ""


def _paths(kind: Kind, above: SettingPath, near: SettingPath) -> Iterator[SettingPath]:
    """The paths of all settings; where a table's names are anybody's choice, below the name that stands in `near`."""
    if kind.is_section:
        for name, below in fields_of(kind.base).items():
            yield (*above, name)
            yield from _paths(below, (*above, name), near)
    elif kind.item is not None and kind.item.is_section and near[: len(above)] == above and len(near) > len(above) + 1:
        yield from _paths(kind.item, near[: len(above) + 1], near)
