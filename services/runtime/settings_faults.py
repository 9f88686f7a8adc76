"""What is wrong with a setting, in one line: where it stands, what it is called, what is right."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import BaseModel

from services.runtime.key_settings import KeySettings
from services.runtime.notify_settings import NotifySettings
from services.runtime.settings import ProviderSettings, Settings
from services.runtime.universe_settings import UniverseSettings

Key = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """What one source says. `kind`: file, secret file, environment or demo. `name`: the file's path, or the variable."""

    kind: str
    name: str
    tree: dict[str, object]

    def depth(self, key: Key) -> int:
        """How many parts of the key this layer holds, from the first on."""
        node: object = self.tree
        for depth, part in enumerate(key):
            if not isinstance(node, dict) or part not in node:
                return depth
            node = node[part]
        return len(key)

    def spell(self, key: Key) -> str:
        """The key as it is written in such a source."""
        return ".".join(key) if self.kind == "file" else "QUOTEBUS_" + "__".join(key).upper()


def strongest(layers: Sequence[Layer], key: Key) -> Layer | None:
    """The layer whose value of this key counts: the last of those that hold most of it."""
    best = max(layers, key=lambda layer: layer.depth(key), default=None)
    if best is None or not best.depth(key):
        return None
    return next(layer for layer in reversed(layers) if layer.depth(key) == best.depth(key))


def describe(layers: Sequence[Layer], key: Key, fault: str, choices: Collection[str] | None = None) -> str:
    """One line on this key; without a `fault` the key is unknown. `choices`: of its last part, if the model does not say."""
    layer = strongest(layers, key)
    if layer is None:
        return f"{'.'.join(key)}: {fault}"
    where = f"{layer.name}: {'.'.join(key)}" if layer.kind == "file" else f"{layer.kind}: {layer.name}"
    if fault:
        return f"{where}: {fault.removeprefix('Value error, ')}"
    return f"{where}: no such setting{_instead(layer, key, choices)}"


def _instead(layer: Layer, key: Key, choices: Collection[str] | None) -> str:
    right = [(*key[:-1], choice) for choice in choices] if choices is not None else list(_keys_near(key))
    siblings = [each for each in right if each[:-1] == key[:-1]]
    if len(key) > 1 and siblings:
        by_text = {each[-1]: each for each in siblings}
        close = get_close_matches(key[-1], by_text, 1)
    else:
        # The table itself is wrong, or NATS_URL was written for NATS__URL.
        by_text = {"_".join(each): each for each in right}
        close = get_close_matches("_".join(key), by_text, 1)
    if close:
        return f"; did you mean {layer.spell(by_text[close[0]])}?"
    return f"; there are {', '.join(each[-1] for each in siblings)}" if siblings else ""


def _keys_near(key: Key) -> Iterator[Key]:
    """Every key there is; of providers, the fields of the one this key names, and of the key of its that it names."""
    yield from _keys(Settings, ())
    if key[0] == "providers" and len(key) > 1:
        yield from _keys(ProviderSettings, key[:2])
        if key[2:3] == ("keys",) and len(key) > 4:
            yield from _keys(KeySettings, key[:4])
    if key[0] == "notify" and len(key) > 2:
        yield from _keys(NotifySettings, key[:2])
    if key[0] == "universes" and len(key) > 1:
        yield from _keys(UniverseSettings, key[:2])


def _keys(model: type[BaseModel], above: Key) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        yield (*above, name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, (*above, name))
