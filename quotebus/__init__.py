"""Command line, Python client and embedded servers of quotebus."""

from importlib.util import find_spec
from pathlib import Path

_PARENT = Path(__file__).parent.parent

# The distribution brings two packages with common names. Somebody else's, found first, would fail much later and say nothing.
for _name in ("contracts", "services"):
    _found = find_spec(_name)
    if _found is not None and _found.origin is not None and Path(_found.origin).parent.parent != _PARENT:
        raise ImportError(
            f"the package `{_name}` in {Path(_found.origin).parent} hides that of quotebus in {_PARENT / _name}: "
            "start in another folder or with `python -P`, or install quotebus into an environment of its own"
        )
