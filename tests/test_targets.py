"""Device profiles: read, bounded, and no number without its source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expertc import targets
from expertc.errors import ExitCode, InvalidArtifactError, UsageError
from expertc.targets import Target, list_targets, load_target, read_target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent.parent / "targets"
PROFILES = sorted(FOLDER.glob("*.toml"))

GOOD = 'description = "A board"\nbackend = "tensorrt"\nprecisions = ["fp32"]\n'


def numbers(data: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where in a parsed profile a number stands, text that is only a number included."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from numbers(value, (*where, key))
    elif isinstance(data, list):
        for value in data:
            yield from numbers(value, where)
    elif isinstance(data, int | float) or data.replace(".", "").isdigit():
        yield where


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_no_number_lacks_its_source(file: Path) -> None:
    """Read with tomllib alone, so that our own reader cannot hide one."""
    data = tomllib.loads(file.read_text())
    assert {where[0] for where in numbers(data)} <= {"facts"}
    for table in data.get("facts", []):
        assert len(table["source"]) > 10
        assert "remember" not in table["source"].lower()
    target = load_target(file.stem)
    assert target.facts.keys() == target.sources.keys()
    assert len(target.facts) == sum(len(table) - 1 for table in data.get("facts", []))


def test_the_profiles_that_come_along() -> None:
    assert {"cpu", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin"} <= {t.name for t in list_targets()}
    assert [target.name for target in list_targets()] == [file.stem for file in PROFILES]
    cpu = load_target("cpu")
    assert (cpu.backend, cpu.max_opset, cpu.max_ir, cpu.memory_mb) == ("onnxruntime", None, None, None)
    assert "fp32" in cpu.precisions
    nano = load_target("jetson-orin-nano")
    assert (nano.backend, nano.max_opset, nano.memory_mb) == ("tensorrt", 20, 8192)
    assert nano.facts["power_modes_w"] == (7, 15)
    assert "DS-11105" in nano.sources["memory_mb"]
    assert all("fp16" in target.precisions for target in list_targets() if target.backend == "tensorrt")


@pytest.mark.parametrize("name", ["", "gpu", "../targets/cpu", "cpu.toml", "CPU", "/etc/passwd"])
def test_an_unknown_target_names_the_known(name: str) -> None:
    with pytest.raises(UsageError, match="no target") as caught:
        load_target(name)
    assert "cpu, geforce-rtx-40, jetson-agx-orin" in caught.value.hint
    assert caught.value.exit_code == ExitCode.USAGE


def test_an_installed_package_reads_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "expertc" / "_targets").mkdir(parents=True)
    (tmp_path / "targets").mkdir()
    (tmp_path / "expertc" / "_targets" / "mine.toml").write_text(GOOD)
    monkeypatch.setattr(targets, "__file__", str(tmp_path / "expertc" / "targets.py"))
    targets._profiles.cache_clear()
    try:
        assert list_targets() == (Target("mine", "tensorrt", "A board", ("fp32",), {}, {}),)
        (tmp_path / "expertc" / "_targets" / "mine.toml").rename(tmp_path / "targets" / "other.toml")
        (tmp_path / "expertc" / "_targets").rmdir()
        targets._profiles.cache_clear()
        assert load_target("other").description == "A board"
        (tmp_path / "targets" / "other.toml").unlink()
        targets._profiles.cache_clear()
        with pytest.raises(InvalidArtifactError, match="no target profiles"):
            list_targets()
    finally:
        targets._profiles.cache_clear()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [", "malformed"),
        ("", "description"),
        (GOOD.replace('"A board"', '""'), "description"),
        (GOOD.replace("tensorrt", "cuda"), "backend"),
        (GOOD.replace('"fp32"', '"fp8"'), "precisions"),
        (GOOD.replace('["fp32"]', "[]"), "precisions"),
        (GOOD.replace('["fp32"]', '"fp32"'), "precisions"),
        (GOOD + "memory_mb = 8", "memory_mb must stand in"),
        (GOOD + "[[facts]]\nmemory_mb = 8", "no source"),
        (GOOD + '[[facts]]\nsource = " "\nmemory_mb = 8', "no source"),
        (GOOD + "[[facts]]\nsource = 8", "no source"),
        (GOOD + "facts = [1]", "no source"),
        (GOOD + "facts = 1", "no source"),
        (GOOD + "[facts]\nmemory_mb = 8", "no source"),
        (GOOD + '[[facts]]\nsource = "a"\nx = 1\n[[facts]]\nsource = "b"\nx = 1', "x stands twice"),
        (GOOD + '[[facts]]\nsource = "a"\nx = {y = 1}', "x is neither"),
        (GOOD + '[[facts]]\nsource = "a"\nx = [[1]]', "x is neither"),
        (GOOD + '[[facts]]\nsource = "a"\nmemory_mb = "8 GB"', "memory_mb is not a whole number"),
        (GOOD + '[[facts]]\nsource = "a"\nmax_opset = true', "max_opset is not a whole number"),
    ],
)
def test_a_malformed_profile(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(InvalidArtifactError, match=words):
        read_target(tmp_path / "board.toml")
