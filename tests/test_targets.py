"""Device profiles: read, bounded, and no number without its source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expertc import targets
from expertc.errors import ExitCode, InvalidArtifactError, UsageError
from expertc.targets import Target, list_targets, load_target, read_target, release

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent.parent / "targets"
PROFILES = sorted(FOLDER.glob("*.toml"), key=lambda file: file.stem)

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


# Name, SM, DLA cores, GB of memory, GB/s, CUDA cores: written down apart from the profiles, from the same data sheets.
# "-" is what only data sheets that nobody has checked say, so that a profile must not say it.
DEVICES = """
orin-nano-4gb       8.7  0  4   34    512
orin-nano-8gb       8.7  0  8   68    1024
orin-nano-8gb-super 8.7  0  8   102   1024
orin-nx-8gb         8.7  1  8   102   1024
orin-nx-16gb        8.7  2  16  102   1024
agx-orin-32gb       8.7  2  32  204.8 1792
agx-orin-64gb       8.7  2  64  204.8 2048
xavier-nx           7.2  2  8   -     384
agx-xavier          7.2  2  32  -     512
thor-t4000          11.0 0  64  273   1536
thor-t5000          11.0 0  128 273   2560
rtx-3060            8.6  -  12  360   3584
rtx-4060            8.9  -  8   -     3072
rtx-4090            8.9  -  24  1008  16384
rtx-5090            12.0 -  32  -     21760
t4                  7.5  -  16  320   2560
a2                  8.6  -  16  200   1280
l4                  8.9  -  24  300   7424
a100                8.0  -  40  -     -
h100                9.0  -  80  -     -
h200                9.0  -  141 -     -
"""
ROWS = [line.split() for line in DEVICES.split("\n") if line]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_device_has_the_numbers_of_its_data_sheet(row: list[str]) -> None:
    target = load_target(row[0])
    keys = ("sm", "dla_cores", "memory_mb", "memory_bandwidth_gbs", "cuda_cores")
    expected = {key: text for key, text in zip(keys, row[1:], strict=True) if text != "-"}
    expected["memory_mb"] = str(1024 * int(row[3]))
    assert {key: str(target.facts[key]) for key in keys if key in target.facts} == expected
    assert target.workspace_mb == target.memory_mb // 4


# Read off the documents of each release.
CEILINGS = {"8.5": 17, "8.6": 17, "10.1": 20, "10.3": 20, "10.8": 20, "10.13": 24}


def test_the_profiles_that_come_along() -> None:
    names = [target.name for target in list_targets()]
    assert names == [file.stem for file in PROFILES]
    assert set(names) == {"cpu", "gpu", *(row[0] for row in ROWS)}
    for name in ("cpu", "gpu"):  # what is here says itself what it can
        target = load_target(name)
        assert (target.facts, target.workspace_mb, target.dla_cores) == ({}, None, 0)
    for target in map(load_target, (row[0] for row in ROWS)):
        assert target.backend == "tensorrt"
        assert target.max_opset == CEILINGS[".".join(map(str, target.tensorrt_min[:2]))]
    assert all({"fp32", "fp16"} <= set(target.precisions) for target in list_targets())
    nano = load_target("orin-nano-8gb")
    assert nano.tensorrt_min == (8, 6, 2) < load_target("orin-nano-8gb-super").tensorrt_min == (10, 3, 0)
    assert nano.facts["power_modes_w"] == (7, 15)
    assert load_target("orin-nano-8gb-super").facts["power_modes"] == ("15W", "25W", "MAXN_SUPER", "7W")
    assert "DS-11105" in nano.sources["memory_mb"]


@pytest.mark.parametrize("name", ["", "../targets/cpu", "CPU!", "/etc/passwd", "\x1b[31m" + "x" * 10000])
def test_an_unknown_target(name: str) -> None:
    with pytest.raises(UsageError, match="no target") as caught:
        load_target(name)
    assert caught.value.exit_code == ExitCode.USAGE
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"), [("orin-nano", "orin-nano-8gb"), ("jetson-orin-nx", "orin-nx-16gb"), ("rtx4090", "rtx-4090")]
)
def test_an_unknown_target_names_what_is_near(name: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_target(name)
    assert f"'{near}'" in caught.value.hint


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of profiles."""
    folder = tmp_path / "config" / "expertc" / "targets"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return folder


def test_a_users_own_profiles(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "camera.toml").write_text(GOOD)
    (own / "t4.toml").write_text(GOOD.replace("A board", "Ours"))
    assert load_target("camera").description == "A board"
    assert load_target("t4").description == "Ours"
    assert {"camera", "t4", "cpu"} <= {target.name for target in list_targets()}
    (own / "broken.toml").write_text("x = [")
    assert load_target("camera").name == "camera"  # a broken one disturbs nobody who does not ask for it
    with pytest.raises(InvalidArtifactError, match=r"broken\.toml"):
        list_targets()
    # Without the variable, and by path.
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").rename(tmp_path / ".config")
    assert load_target("camera").description == "A board"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text(GOOD + '[[facts]]\nsource = "a"\nworkspace_mb = 12\nmemory_mb = 100')
    assert (load_target("./my.toml").name, load_target("my.toml").workspace_mb) == ("my", 12)
    for missing in ("./your.toml", "/proc/self/mem.toml", "a\0b.toml"):
        with pytest.raises(InvalidArtifactError) as caught:
            load_target(missing)
        assert caught.value.exit_code == ExitCode.INVALID


def test_an_installed_package_reads_its_own_folder(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "expertc" / "_targets").mkdir(parents=True)
    (tmp_path / "targets").mkdir()
    (tmp_path / "expertc" / "_targets" / "mine.toml").write_text(GOOD)
    monkeypatch.setattr(targets, "__file__", str(tmp_path / "expertc" / "targets.py"))
    assert list_targets() == (Target("mine", "tensorrt", "A board", ("fp32",), {}, {}),)
    (tmp_path / "expertc" / "_targets" / "mine.toml").rename(tmp_path / "targets" / "other.toml")
    (tmp_path / "expertc" / "_targets").rmdir()
    assert load_target("other").description == "A board"
    (tmp_path / "targets" / "other.toml").unlink()
    with pytest.raises(InvalidArtifactError, match="no target profiles"):
        list_targets()


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
        (GOOD + '[[facts]]\nsource = "a"\nmemory_mb = -1', "memory_mb is not a whole number"),
        (GOOD + '[[facts]]\nsource = "a"\ntensorrt_min = "10.x"', "tensorrt_min: '10.x' is not a release"),
        (GOOD + '[[facts]]\nsource = "a"\nx = nan', "x is neither"),
        (GOOD + '[[facts]]\nsource = "a"\nx = [inf]', "x is neither"),
        (GOOD + "x = " + "[" * 20000, "malformed"),
        ("#" * 2**17, "larger"),
    ],
)
def test_a_malformed_profile(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(InvalidArtifactError, match=words):
        read_target(tmp_path / "board.toml")


def test_a_name_from_a_stranger(tmp_path: Path) -> None:
    for name in ("a b", "\x1b[2J", "é", "-x", "x" * 65):
        (tmp_path / f"{name}.toml").write_text(GOOD)
        with pytest.raises(InvalidArtifactError, match="other characters") as caught:
            read_target(tmp_path / f"{name}.toml")
        assert "\x1b" not in str(caught.value)


def test_a_release() -> None:
    assert release("8.6.2") < release("10") == (10, 0) < release("10.3.0") < release("10.13")
    for text in ("", "10.x", "v10", "10.", "1" * 5, "-1", "10.3.0.26.1"):
        with pytest.raises(ValueError, match="not a release"):
            release(text)
