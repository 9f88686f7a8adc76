"""Builds the settings from plain tables and collects every fault, each with the path of the setting."""

import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from services.runtime.settings.model import Fault, InvalidSettingsError, JobTable, Secret, Section, Settings, validate_job_table

SettingPath = tuple[str, ...]
UNKNOWN = ""  # the text of a fault that is a setting nobody has
_INVALID = object()
_BOOLEANS = {"y": True, "yes": True, "t": True, "on": True, "n": False, "no": False, "f": False, "off": False}


class Kind(NamedTuple):
    """The type of a setting. `base`: without Annotated and None; `item`: of what a list or a table holds; `name`: of its keys."""

    full: Any
    base: Any
    item: Any = None
    name: Any = None

    @property
    def is_section(self) -> bool:
        """True if the type is a table with fields of its own."""
        return isinstance(self.base, type) and issubclass(self.base, Section)

    @property
    def is_compound(self) -> bool:
        """True if the type is a list or a table, which an environment variable gives as JSON."""
        return self.is_section or self.base in (list, dict, JobTable)


def build_settings(tree: Mapping[str, object]) -> Settings:
    """Build the settings from tables as TOML and JSON give them; a number or a boolean may be given as a text.

    Raises:
        InvalidSettingsError: with every fault.
    """
    faults: list[Fault] = []
    settings = _build(kind_of(Settings), tree, (), faults)
    if faults:
        raise InvalidSettingsError(faults)
    assert isinstance(settings, Settings)
    return settings


@cache
def fields_of(section: type[Section]) -> Mapping[str, Kind]:
    """The settings of a table by name."""
    return {name: kind_of(hint) for name, hint in get_type_hints(section, include_extras=True).items()}


def kind_below(kind: Kind, part: str) -> Kind | None:
    """The kind of what a list or a table of this kind holds under a name; None where there is no such thing."""
    return fields_of(kind.base).get(part) if kind.is_section else kind.item


def kind_at(path: SettingPath) -> Kind | None:
    """The kind of the setting at this path; None if there is none. What a list holds has no path of its own."""
    kind: Kind | None = kind_of(Settings)
    for part in path:
        kind = kind_below(kind, part) if kind is not None and part and kind.base is not list else None
    return kind


def kind_of(hint: Any) -> Kind:
    """Take a type apart."""
    base = _without_none(_without_meta(_without_none(hint)))
    arguments = get_args(base)
    if get_origin(base) is list:
        return Kind(hint, list, kind_of(arguments[0]))
    if get_origin(base) is dict:
        return Kind(hint, dict, kind_of(arguments[1]), arguments[0])
    return Kind(hint, base)


def _without_meta(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    some = [each for each in get_args(hint) if each is not types.NoneType]
    return some[0] if len(some) == 1 else hint


def _build(kind: Kind, value: object, path: SettingPath, faults: list[Fault]) -> object:
    if kind.is_section and isinstance(value, Mapping):
        return _section(kind.base, value, path, faults)
    if kind.base is dict and isinstance(value, Mapping):
        return _table(kind, value, path, faults)
    if kind.base is list and isinstance(value, list):
        value = [_build(kind.item, each, (*path, str(place)), faults) for place, each in enumerate(value)]
        return value if len(value) >= (_meta(kind.full, "min_length") or 0) else _fault(kind, path, faults)
    if kind.base is Secret and isinstance(value, str):
        return Secret(value)
    if kind.base is JobTable and isinstance(value, Mapping):
        return _job_table(value, path, faults)
    if kind.is_compound or kind.base is Secret:
        return _fault(kind, path, faults)
    return _scalar(kind, value, path, faults)


def _section(section: type[Section], tree: Mapping[str, object], path: SettingPath, faults: list[Fault]) -> object:
    kinds = fields_of(section)
    faults += [Fault((*path, name), UNKNOWN) for name in tree if name not in kinds]
    before = len(faults)
    given = {name: _build(kinds[name], value, (*path, name), faults) for name, value in tree.items() if name in kinds}
    required = {each.name for each in msgspec.structs.fields(section) if each.required}
    faults += [Fault((*path, name), f"{name} is missing; {wanted(kinds[name])}") for name in sorted(required - given.keys())]
    if len(faults) > before:
        return _INVALID
    try:
        return section(**given)
    except InvalidSettingsError as error:
        faults += [Fault((*path, *fault.path), fault.text) for fault in error.faults]
        return _INVALID


def _table(kind: Kind, tree: Mapping[str, object], path: SettingPath, faults: list[Fault]) -> dict[str, object]:
    misnamed = [name for name in tree if not _converts(name, kind.name)]
    faults += [Fault((*path, name), _meta(kind.name, "description")) for name in misnamed]
    return {name: _build(kind.item, value, (*path, name), faults) for name, value in tree.items()}


def _job_table(table: Mapping[str, object], path: SettingPath, faults: list[Fault]) -> object:
    try:
        return validate_job_table(table)
    except ValueError as error:
        faults.append(Fault(path, str(error)))
        return _INVALID


def _scalar(kind: Kind, value: object, path: SettingPath, faults: list[Fault]) -> object:
    if kind.base is bool and isinstance(value, str):
        value = _BOOLEANS.get(value.lower(), value)
    try:
        # The error's own text may hold the value, which may be a secret in the wrong place.
        return msgspec.convert(value, kind.full, strict=False)
    except msgspec.ValidationError:
        return _fault(kind, path, faults)


def _converts(value: object, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _fault(kind: Kind, path: SettingPath, faults: list[Fault]) -> object:
    faults.append(Fault(path, wanted(kind)))
    return _INVALID


def wanted(kind: Kind) -> str:
    """The remedy for a value that is none of this kind: a sentence of what to give."""
    if text := _meta(kind.full, "description"):
        return str(text)
    if get_origin(kind.base) is Literal:
        return f"give one of {', '.join(get_args(kind.base))}"
    if kind.base is list:
        least = " of at least one item" if _meta(kind.full, "min_length") else ""
        return f"give a list{least}, of each item: {wanted(kind.item).removeprefix('give ')}"
    if kind.is_compound:
        return "give a table"
    if kind.base in (int, float):
        return f"give {'a whole number' if kind.base is int else 'a number'}{_range(kind.full)}"
    return "give true or false" if kind.base is bool else "give a text"


def _range(hint: Any) -> str:
    above, least, most = _meta(hint, "gt"), _meta(hint, "ge"), _meta(hint, "le")
    low = f" above {above:g}" if above is not None else ""
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    low = f", {least:g} or more" if least is not None else low
    return f"{low} and at most {most:g}" if most is not None else low


def _meta(hint: Any, name: str) -> Any:
    """A constraint of a type, wherever within `X | None` it is noted."""
    return next((found for meta in _metas(hint) if (found := getattr(meta, name)) is not None), None)


def _metas(hint: Any) -> Iterator[Meta]:
    for each in (hint, _without_none(hint)):
        if get_origin(each) is Annotated:
            yield from (meta for meta in get_args(each)[1:] if isinstance(meta, Meta))
