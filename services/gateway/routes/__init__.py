"""The routes by resource, a file each, found by this folder: what a module lists as `ROUTES` is served.

A route that names a schema as text, such as a form of its body, has the schema's type among its module's `SCHEMAS`.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from services.gateway.routing import Route


def all_routes() -> tuple[Route, ...]:
    """Every route of this folder, in order of the modules' names."""
    return tuple(route for module in _modules() for route in module.ROUTES)


def all_schemas() -> frozenset[type]:
    """Every type that some route names as text."""
    return frozenset(kind for module in _modules() for kind in getattr(module, "SCHEMAS", ()))


def _modules() -> Iterator[ModuleType]:
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        yield import_module(f"{__name__}.{name}")
