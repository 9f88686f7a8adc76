"""The settings as they hold in this folder: where `quotebus up` runs here, its servers instead of the defaults."""

import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from quotebus.stack.endpoints import FILE_NAME
from services.fetcher import providers
from services.runtime.settings import Loaded, Secret, Settings, read_settings

DEFAULT_DATA = Path(".quotebus")
# What `endpoints.json` calls a server, and the setting that it stands for.
_STANDS_FOR = {"nats": ("nats", "url"), "postgres": ("postgres", "dsn"), "redis": ("redis", "url")}


@dataclass(frozen=True)
class LocalSettings:
    """Settings for a command that somebody types in this folder. `file`: the endpoints of a running `quotebus up`, if one runs."""

    settings: Settings
    file: Path | None
    _loaded: Loaded
    _from_file: frozenset[tuple[str, ...]]

    def origin(self, *key: str) -> str:
        """Source of this key's value: `default`, a file, or a variable."""
        return f"file {self.file}" if key in self._from_file else self._loaded.origin(*key)


def local_settings(config: Path | None = None, data: Path = DEFAULT_DATA) -> LocalSettings:
    """The settings; servers that are not set explicitly are those of the `quotebus up` whose data folder is `data`.

    Raises:
        SettingsError: with all that is wrong with them.
    """
    file = data / FILE_NAME
    try:
        running = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # It is there only while `quotebus up` runs, and being replaced it may vanish under our eyes.
        loaded = read_settings(config, known_providers())
        return LocalSettings(loaded.settings, None, loaded, frozenset())
    # What runs here shows the made-up market where nothing is configured.
    loaded = read_settings(config, known_providers(), demo=True)
    used = {key: running[name] for name, key in _STANDS_FOR.items() if running.get(name) and loaded.origin(*key) == "default"}
    return LocalSettings(_with(loaded.settings, used), file, loaded, frozenset(used))


def known_providers() -> frozenset[str]:
    """The names of all adapters. Each is one module of their folder, named like the provider; none is imported."""
    return frozenset(module.name for module in pkgutil.iter_modules(providers.__path__) if module.name[0] != "_")


def _with(settings: Settings, values: dict[tuple[str, str], str]) -> Settings:
    sections = {}
    for (table, name), value in values.items():
        section = getattr(settings, table)
        sections[table] = replace(section, **{name: value if table == "nats" else Secret(value)})
    return replace(settings, **sections)
