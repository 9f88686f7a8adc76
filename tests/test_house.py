"""The house holds: rooms, handlers and contracts, promises, and tests that stand by themselves."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_handler_handles_the_contract_of_its_name():
    handlers = {path.stem.removeprefix("on_") for path in (ROOT / "services").glob("*/on_*.py")}
    assert len(handlers) >= 8
    assert handlers <= {path.stem for path in (ROOT / "contracts").glob("*.py")}


def test_every_room_of_the_readme_is_there():
    rooms = re.findall(r"^\| \[[^]]+\]\(([^)]+)\)", README, re.MULTILINE)
    assert len(rooms) >= 9
    assert [room for room in rooms if not (ROOT / room).exists()] == []


def test_every_promise_of_the_readme_has_its_file_and_every_file_its_promise():
    promised = dict(re.findall(r"^\| (P\d+) \|.*\]\((tests/promises/[^)]+)\) \|$", README, re.MULTILINE))
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "promises").glob("test_p*.py")}
    assert sorted(promised) == [f"P{number}" for number in range(1, 10)]
    assert set(promised.values()) == files
    assert all(f"test_{name.lower()}_" in file for name, file in promised.items())


def test_no_test_imports_a_test_module():
    importing = re.compile(r"^\s*from tests\.(?:\w+\.)*test_\w+ import", re.MULTILINE)
    assert [str(path) for path in (ROOT / "tests").rglob("*.py") if importing.search(path.read_text())] == []
