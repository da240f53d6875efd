"""What gc takes beside releases: only what is old, and what nothing names."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from expertc.bundle import write_bundle
from expertc.deploy.clearing import WEEK, clear_envs, clear_incoming, clear_scripts
from expertc.releases import Store


def aged(folder: Path, seconds: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    os.utime(folder, (time.time() - seconds,) * 2)
    return folder


def test_uploads_are_forgotten_after_a_week(tmp_path: Path) -> None:
    assert clear_incoming(tmp_path) == 0
    old, new = aged(tmp_path / "incoming/old", WEEK + 60), aged(tmp_path / "incoming/new", WEEK - 60)
    assert clear_incoming(tmp_path) == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_bootstraps_of_other_versions_go_after_a_week(tmp_path: Path) -> None:
    for name, age in {"old": WEEK + 60, "own": WEEK + 60, "new": WEEK - 60}.items():
        (tmp_path / f"bootstrap-{name}.py").write_text("x")
        os.utime(tmp_path / f"bootstrap-{name}.py", (time.time() - age,) * 2)
    assert clear_scripts(tmp_path, "bootstrap-own.py") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"bootstrap-own.py", "bootstrap-new.py"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("own", "used", "served", "forgotten"):
        aged(tmp_path / "envs" / name, WEEK + 60)
    aged(tmp_path / "envs/young", 60)
    (tmp_path / "units").mkdir()
    (tmp_path / "units/expertc-cam.service").write_text('ExecStart="/home/x/envs/served/bin/python" "-m" "expertc"\n')
    return tmp_path


def test_environments_that_nothing_names_go(root: Path) -> None:
    store = Store(root / "experts")
    bundle = write_bundle(root / "b", {"expert.onnx": b"x"}, {}, {})
    release = store.install("cam", bundle, {"env": "used"})
    assert clear_envs(root, store, root / "units", "own") == ("forgotten",)
    assert {each.name for each in (root / "envs").iterdir()} == {"own", "used", "served", "young"}
    store.remove("cam", release.id)
    assert clear_envs(root, store, root / "units", None) == ("own", "used")
    assert clear_envs(root / "none", store, root / "units", None) == ()


def test_nothing_is_removed_while_somebody_installs(root: Path) -> None:
    with open(root / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert clear_envs(root, Store(root / "experts"), root / "units", None) == ()
    assert len(list((root / "envs").iterdir())) == 5
