"""The image: pinned, small, and nobody's root."""

import re
import tomllib

from tests.compose.composed import OURS, ROOT, compose_file, dockerfile_stages, image_environment

BUILD, FINAL = dockerfile_stages()


def test_both_stages_begin_with_the_same_pinned_python() -> None:
    images = {stage[0].words[0] for stage in (BUILD, FINAL)}
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", images.pop())
    assert "latest" not in (ROOT / "Dockerfile").read_text()


def test_the_last_user_is_the_one_that_compose_names_and_no_root() -> None:
    user = next(each.text for each in reversed(FINAL) if each.name == "USER")
    assert user == "10001:10001"
    assert {compose_file()["services"][name]["user"] for name in OURS} == {user}


def test_the_final_stage_installs_nothing() -> None:
    runs = " ".join(each.text for each in FINAL if each.name == "RUN")
    assert not re.search(r"\b(apt|apt-get|pip|uv|gcc|curl)\b", runs)
    assert [each.text for each in FINAL if each.name == "COPY"] == ["--from=build /opt/quotebus /opt/quotebus"]


def test_it_is_installed_from_the_lock_file_by_a_pinned_uv_without_servers_and_tools_of_developers() -> None:
    runs = [each.text for each in BUILD if each.name == "RUN"]
    assert any(re.search(r"uv==\d+\.\d+\.\d+$", run) for run in runs)
    syncs = [run.split() for run in runs if run.startswith("uv sync")]
    assert len(syncs) == 2
    for words in syncs:
        assert {"--frozen", "--no-dev"} <= set(words)
        assert [words[at + 1] for at, word in enumerate(words) if word == "--extra"] == ["fast", "notify"]
    assert "--no-editable" in syncs[-1]


def test_what_is_copied_is_what_dockerignore_lets_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for each in BUILD if each.name == "COPY" for word in each.words[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert (
        set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
        <= copied
    )


def test_python_writes_no_caches_and_keeps_no_line_back_and_the_container_stops_on_sigterm() -> None:
    assert image_environment().items() >= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}.items()
    assert "SIGTERM" in [each.text for each in FINAL if each.name == "STOPSIGNAL"]


def test_the_image_is_named_after_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {compose_file()["services"][name]["image"] for name in OURS} == {f"quotebus:{version}"}
