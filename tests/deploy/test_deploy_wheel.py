"""The wheel that devices install: what pip makes of it is what runs here."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import pytest

import expertc
from expertc.deploy import wheel
from expertc.errors import UsageError

PACKAGE = Path(expertc.__file__).parent


def installed(made: Path, place: Path) -> Path:
    """Let pip unpack it."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, made],
        check=True, capture_output=True,
    )  # fmt: skip
    return place / "expertc"


def test_it_is_this_expertc(tmp_path) -> None:
    made = wheel.make(tmp_path)
    found = installed(made, tmp_path / "site")
    modules = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert {path.relative_to(found) for path in found.rglob("*.py")} == modules
    assert all((found / path).read_bytes() == (PACKAGE / path).read_bytes() for path in modules)
    done = subprocess.run(
        [sys.executable, "-c", "import expertc.targets as t; print(len(t.list_targets()), t.__file__)"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout.split()[0]) > 5
    assert str(tmp_path) in done.stdout


def test_the_same_expertc_gives_the_same_wheel(tmp_path) -> None:
    """Else every deployment would install anew."""
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (wheel.make(tmp_path / name) for name in "ab")
    assert sha256(first.read_bytes()).digest() == sha256(second.read_bytes()).digest()


def test_what_is_installed_is_packed_as_it_came(tmp_path) -> None:
    """An expertc from a wheel, not from a checkout."""
    made = wheel.make(tmp_path)
    site = installed(made, tmp_path / "site").parent
    (about,) = site.glob("expertc-*.dist-info")
    (tmp_path / "again").mkdir()
    packed = wheel._packed(metadata.PathDistribution(about), tmp_path / "again")
    with zipfile.ZipFile(made) as first, zipfile.ZipFile(packed) as second:
        names = {name for name in first.namelist() if not name.endswith("RECORD")}
        assert {name for name in second.namelist() if not name.endswith("RECORD")} == names
        assert all(first.read(name) == second.read(name) for name in names)
    assert (installed(packed, tmp_path / "other") / "cli" / "main.py").is_file()


def test_environments_are_told_apart(tmp_path) -> None:
    for name in ("expertc-1-py3-none-any.whl", "other-1-py3-none-any.whl"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x", name)
    own = tmp_path / "expertc-1-py3-none-any.whl"
    alone, serving, housed = (
        wheel.collect(own),
        wheel.collect(own, extras=("serve",)),
        wheel.collect(own, wheel.in_house(tmp_path)),
    )
    assert len({each.environment for each in (alone, serving, housed)}) == 3
    assert wheel.collect(own).environment == alone.environment
    assert (alone.offline, housed.offline) == (False, True)
    assert sorted(housed.files) == ["expertc-1-py3-none-any.whl", "other-1-py3-none-any.whl"]


@pytest.mark.parametrize("name", ["x.zip", "-r.whl", "a b.whl", "missing.whl"])
def test_what_is_no_wheel(tmp_path, name: str) -> None:
    if name != "missing.whl":
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="is not a wheel"):
        wheel.collect(tmp_path / name)


def test_a_wheelhouse_that_is_none(tmp_path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        wheel.in_house(tmp_path / "nothing")
