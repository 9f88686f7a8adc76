"""Where settings come from: quotebus.toml, then secret files, then the environment, the later one winning.

Where those configure neither a provider nor a job, and `demo` is true, the made-up market takes their place.
"""

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError as SourceError

from services.runtime.demo import demo_of, is_configured
from services.runtime.settings import Settings
from services.runtime.settings_faults import Key, Layer, describe, strongest

PREFIX = "QUOTEBUS_"
CONFIG_VARIABLE, SECRETS_VARIABLE = "QUOTEBUS_CONFIG", "QUOTEBUS_SECRETS_DIR"
DEFAULT_FILE, DEFAULT_SECRETS = Path("quotebus.toml"), Path("/run/secrets")
# Read on the way to the settings, or by the command line, and no settings themselves.
_NO_SETTINGS = {CONFIG_VARIABLE, SECRETS_VARIABLE, "QUOTEBUS_DATA"}


class SettingsError(Exception):
    """The settings cannot be used: one line per problem, each naming the key, where it stands and what is right."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Loaded:
    """Settings, and the layers they were made of, the weakest first."""

    settings: Settings
    layers: tuple[Layer, ...]

    def origin(self, *key: str) -> str:
        """Where the value of this key comes from: `default`, a file, or a variable."""
        layer = strongest(self.layers, key)
        return f"{layer.kind} {layer.name}" if layer is not None and layer.depth(key) == len(key) else "default"


def load_settings(path: Path | None = None, known_providers: Collection[str] | None = None) -> Settings:
    """The settings of this process; see `read_settings`."""
    return read_settings(path, known_providers).settings


def read_settings(path: Path | None = None, known_providers: Collection[str] | None = None, *, demo: bool = False) -> Loaded:
    """Read every source. `path`: the settings file, else $QUOTEBUS_CONFIG, else ./quotebus.toml if there is one.

    Empty variables and empty secret files say nothing. With `known_providers` a provider of another name is an error.
    `demo`: as if the setting of that name were true.

    Raises:
        SettingsError: with all that is wrong, an unknown key included.
    """
    problems: list[str] = []
    layers: tuple[Layer, ...] = (*_file(path, problems), *_secret_files(problems), *_environment(problems))
    merged: dict[str, object] = {}
    for layer in layers:
        merged = _merge(merged, layer.tree)
    settings = Settings()
    try:
        settings = Settings.model_validate(merged)
        if (settings.demo or demo) and not is_configured(settings):
            added = demo_of(merged)
            layers = (Layer("demo", "market", added), *layers)
            settings = Settings.model_validate({**merged, **added})
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            key = tuple(map(str, fault["loc"]))
            problems.append(describe(layers, key, "" if fault["type"] == "extra_forbidden" else fault["msg"]))
    named = merged.get("providers")
    if known_providers is not None and isinstance(named, dict):
        unknown = named.keys() - set(known_providers)
        problems += [describe(layers, ("providers", name), "", sorted(known_providers)) for name in unknown]
    if problems:
        raise SettingsError(sorted(set(problems)))
    return Loaded(settings, layers)


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
            problems.append(f"environment: {SECRETS_VARIABLE}: {folder} is no folder")
        return
    found = {}
    for file in sorted(folder.iterdir()):
        # Other programs' secrets may lie in the same folder.
        if file.name.upper().startswith(PREFIX) and file.is_file():
            try:
                found[str(file)] = file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"secret file {file}: cannot be read: {error}")
    yield from _variables("secret file", found, problems)


def _environment(problems: list[str]) -> Iterator[Layer]:
    ours = {name: text for name, text in os.environ.items() if name.upper().startswith(PREFIX) and name not in _NO_SETTINGS}
    yield from _variables("environment", ours, problems)


def _variables(kind: str, texts: Mapping[str, str], problems: list[str]) -> Iterator[Layer]:
    """One layer a variable, so that a fault names the variable. A name may be a file's path: its last part counts."""
    for name, text in sorted(texts.items()):
        if not text:
            continue
        variable = Path(name).name.lower()
        key: Key = tuple(variable.removeprefix(PREFIX.lower()).split("__"))
        source = EnvSettingsSource(Settings)
        source.env_vars = {variable: text}
        try:
            tree = source()
        except SourceError:
            problems.append(f"{kind}: {name}: not JSON, which a list or a table has to be written in")
            continue
        if tree:
            yield Layer(kind, name, tree)
        else:
            problems.append(describe((Layer(kind, name, _nested(key, text)),), key, ""))


def _nested(key: Key, value: object) -> dict[str, object]:
    return {key[0]: _nested(key[1:], value) if len(key) > 1 else value}


def _merge(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged
