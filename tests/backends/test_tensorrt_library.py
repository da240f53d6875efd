"""Finding TensorRT: what to install where it is missing. Releases of L4T are recorded lines; modules are fakes."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fake_tensorrt import RELEASES, fake

from expertc.backends.tensorrt import library
from expertc.backends.tensorrt.library import has, load, version
from expertc.errors import ExitCode, UnsupportedError

# First lines of /etc/nv_tegra_release, up to the date.
R35 = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n"
R36 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
R38 = "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64\n"
R32 = "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64\n"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No TensorRT, and a machine that is no Jetson until the file is written."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(library, "TEGRA", tmp_path / "nv_tegra_release")
    return tmp_path / "nv_tegra_release"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (R36, r"apt install python3-libnvinfer \(JetPack 6\.2: TensorRT 10\.3 for Python 3\.10\)"),
        (R38, r"python3-libnvinfer \(JetPack 7\.0: TensorRT 10\.13 for Python 3\.12\)"),
        (R36.replace("4.3", "3.0"), r"JetPack 6\.0: TensorRT 8\.6\.2"),
        (R36.replace("R36", "R47"), r"apt install python3-libnvinfer; a virtual environment"),
        (R38.replace("R38", "R39"), r"JetPack 7\.2 for Python 3\.12"),
        (R35, r"JetPack 5\.1\.2 has it for Python 3\.8 only: compile with trtexec"),
        (R32, "older than 5.1: update it"),
    ],
)
def test_on_a_jetson_the_package_of_its_jetpack_is_named(line: str, words: str, missing: Path) -> None:
    missing.write_text(line)
    with pytest.raises(UnsupportedError, match="not installed for this Python") as caught:
        load()
    assert caught.value.exit_code == ExitCode.UNSUPPORTED == 4
    assert re.search(words, caught.value.hint)


@pytest.mark.parametrize(
    ("machine", "words"), [("x86_64", "pip install 'expertc[tensorrt]'"), ("aarch64", "NVIDIA's repository")]
)
def test_elsewhere_it_depends_on_the_processor(
    machine: str, words: str, missing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UnsupportedError) as caught:
        load()
    assert words in caught.value.hint


def test_one_that_is_broken_is_told_from_none(missing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(str(tmp_path))
    place = tmp_path / "tensorrt.py"
    place.write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file')")
    with pytest.raises(UnsupportedError, match=r"cannot be loaded: libnvinfer\.so\.10") as caught:
        load()
    assert caught.value.hint.startswith("A library that it needs is missing")
    place.write_text("import tensorrt_libs_that_are_missing")
    with pytest.raises(UnsupportedError, match="tensorrt_libs_that_are_missing"):
        load()


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_of_the_contract_is_taken(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = fake(release)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    assert load() is trt


def test_older_ones_and_mere_runtimes_are_not(missing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake("8.5")
    old.__version__ = "8.4.1.5"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(UnsupportedError, match=r"8\.4\.1\.5 is older than 8\.5"):
        load()
    lean = ModuleType("tensorrt")
    lean.__version__ = "10.16.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", lean)
    with pytest.raises(UnsupportedError, match="runtime only"):
        load()


def test_releases_are_read_whatever_follows_them() -> None:
    trt = ModuleType("tensorrt")
    for text, expected in (("8.6.1.post1", (8, 6, 1)), ("10.0.0b6", (10, 0, 0)), ("10.13.3.9", (10, 13, 3, 9))):
        trt.__version__ = text  # type: ignore[attr-defined]
        assert version(trt) == expected
    assert has(fake("10.3"), "IBuilderConfig.progress_monitor")
    assert not has(fake("8.6"), "IBuilderConfig.progress_monitor")
    assert not has(fake("8.6"), "IProgressMonitor.phase_start")
    assert not has(fake("8.6"), "IProgressMonitor.__init__")  # which what is missing has too
