"""The pages hold: each warning has its row in the runbook, each link leads somewhere, no line is too long to read."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOUD = {"warning", "error", "critical", "exception"}


def warnings_of(path: Path) -> set[str]:
    """The events that a module logs at `warning` or above."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and node.args]
    loud = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in LOUD]
    events = [call.args[0] for call in loud]
    return {event.value for event in events if isinstance(event, ast.Constant) and re.fullmatch(r"[a-z_]+", str(event.value))}


def test_every_warning_of_a_service_has_its_row_in_the_runbook():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    events = set().union(*map(warnings_of, (ROOT / "services").rglob("*.py")))
    assert len(events) > 20
    assert sorted(event for event in events if f"`{event}`" not in runbook) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page: Path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["concepts", "deploying", "runbook"])
def test_no_line_of_prose_is_longer_than_120_characters(name: str):
    prose = re.sub(r"```.*?```", "", (ROOT / "docs" / f"{name}.md").read_text(), flags=re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
