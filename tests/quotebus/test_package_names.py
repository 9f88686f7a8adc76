"""Packages of the same name that hide ours are refused at once."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["contracts", "services"])
def test_somebody_elses_package_of_the_same_name_is_named_at_once(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    program = [sys.executable, "-c", "import quotebus.client"]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"`{name}` in {tmp_path / name} hides that of quotebus" in ended.stderr
    assert "python -P" in ended.stderr


def test_a_folder_of_that_name_without_a_package_in_it_hides_nothing(tmp_path: Path):
    (tmp_path / "services").mkdir()
    program = [sys.executable, "-c", "import quotebus.client"]
    assert subprocess.run(program, cwd=tmp_path, capture_output=True, check=False).returncode == 0
