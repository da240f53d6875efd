"""The images cannot be built here; what can be known of a Dockerfile without an engine is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expertc.targets import list_targets

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docker"
FILES = sorted(FOLDER.glob("Dockerfile.*"))
WITH_TENSORRT = [file for file in FILES if file.suffix != ".cpu"]


def commands(text: str) -> list[str]:
    """The docker commands that begin a line, or a comment's, with what a backslash goes on with."""
    text = re.sub(r"^#", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\\n", " ", text)
    return [" ".join(found.split()) for found in re.findall(r"^ *(docker (?:build|run) .*)$", text, re.MULTILINE)]


def bases(text: str, arguments: dict[str, str]) -> list[str]:
    """What a Dockerfile begins from, its arguments filled in."""
    named = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE)) | arguments
    return [
        re.sub(r"\$\{(\w+)\}", lambda found: named[found[1]], base)
        for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    ]


def test_the_commands_are_the_same_everywhere() -> None:
    readme = (FOLDER / "README.md").read_text()
    told = commands(readme)
    assert len(told) == len(set(told)) == 12
    assert sorted(told) == sorted(command for file in FILES for command in commands(file.read_text()))
    inline = [" ".join(found.split()) for found in re.findall(r"`(docker [^`]+)`", (ROOT / "README.md").read_text())]
    assert len(inline) == 2
    assert set(inline) <= set(told)


def test_commands_name_what_there_is(cli: Callable[..., Any]) -> None:
    built: set[str] = set()
    for command in commands((FOLDER / "README.md").read_text()):
        if found := re.fullmatch(r"docker build -f docker/(\S+) -t (\S+) \.", command):
            assert FOLDER / found[1] in FILES
            built.add(found[2])
        else:
            [image] = set(command.split()) & built
            verb = command.partition(f" {image} ")[2].split()[0]
            assert cli(verb, "--help").code == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_base_image_has_a_source(file: Path) -> None:
    """No tag is invented: a target's profile says where it was seen."""
    sourced = {str(target.facts["container"]) for target in list_targets() if "container" in target.facts}
    text = file.read_text()
    tags = (
        re.findall(r"--build-arg TAG=([\w.-]+)", text + (FOLDER / "README.md").read_text()) if "${TAG}" in text else []
    )
    for arguments in ({}, *({"TAG": tag} for tag in tags)):
        found = bases(text, arguments)
        assert len(found) == 2
        assert len(set(found)) == 1  # the virtual environment is for the Python that it was made with
        assert found[0] in sourced | {"python:3.12-slim"}
        assert f"`{found[0]}`" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_every_image_keeps_to(file: Path) -> None:
    text = file.read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["$USER_ID:$USER_ID"]
    assert "ARG USER_ID=1000\n" in last
    assert "PYTHONDONTWRITEBYTECODE=1" in last
    assert not re.search(r"torch|\.\[|https?://", re.sub(r"^#.*", "", text, flags=re.MULTILINE))
    assert text.count("pip install") == text.count("pip install --no-cache-dir .")
    assert ("--system-site-packages" in text) == ("find_spec('tensorrt')" in text) == (file in WITH_TENSORRT)


def test_that_none_was_built_is_said() -> None:
    assert (FOLDER / "README.md").read_text().splitlines()[2].startswith("**None of these images was ever built")
    assert {file.name for file in FILES} == set(re.findall(r"Dockerfile\.\w+", (FOLDER / "README.md").read_text()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    """It parses the whole file, and the shell's lines too."""
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if tool is None:
        pytest.skip("hadolint is not installed: it comes with the extra 'dev' on Linux")
    done = subprocess.run([tool, "--no-color", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
