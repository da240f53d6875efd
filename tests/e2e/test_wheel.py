"""What is installed: the wheel holds everything that the code looks for beside itself."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="builds the wheel without the network; .ci/run installs it in any case")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT]
    subprocess.run([*map(str, command)], check=True, timeout=300, env=os.environ | {"PIP_NO_INDEX": "1"})
    [found] = folder.glob("*.whl")
    return found


def test_every_file_of_the_package_and_the_targets(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "expertc").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"expertc/py.typed", "expertc/taxonomies/sea-animals.yaml"} <= package
    assert {"expertc/training/recipes/sea-animals.toml", "expertc/models/sea-animals.onnx"} <= package
    targets = {f"expertc/_targets/{path.name}" for path in (ROOT / "targets").iterdir()}
    assert "expertc/_targets/cpu.toml" in targets
    assert {name for name in names if not name.startswith("expertc-")} == package | targets
    assert not any("tests" in name for name in names)


def test_it_runs_from_where_it_is_installed(wheel, tmp_path):
    """Its own files, its own script; the checkout is out of sight."""
    home = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            assert not name.startswith(("/", ".."))
            archive.extract(name, home)
        [entry] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "expertc = expertc.cli:main" in archive.read(entry).decode()
    code = (
        "import sys, expertc; from expertc.cli import run\n"
        f"assert expertc.__file__.startswith({str(home)!r})\n"
        "assert run(['targets', 'cpu']) == 0\n"
        "assert run(['build', '--classes', 'sharks,rays', '--verify', 'off', '--measure', '0']) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(home)}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sharks-rays.expert" / "expert.onnx").is_file()
