"""A bundle that is written again with a threshold: what was checked at its opening, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from expertc.bundle import Bundle, open_bundle, reserve, write_bundle
from expertc.errors import BundleError, FileSystemError
from expertc.evaluate.calibrate import calibrate, release

FOUND = calibrate(np.arange(40.0).reshape(20, 2), np.zeros((8, 2)), "logits", 0.1)


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    files: dict[str, bytes | Path] = {
        "expert.onnx": b"model" * 100, "expert.onnx.data": b"w" * 9, "labels.txt": b"a\n",
    }  # fmt: skip
    return open_bundle(write_bundle(tmp_path / "a.expert", files, {"name": "x"}, {"seconds": 1}))


def again(old: Bundle, force: bool = False) -> Path:
    with reserve(old.path if force else old.path.with_name("b.expert"), force=force) as place:
        return release(old, place, FOUND)


def test_every_listed_file_and_no_other(old: Bundle) -> None:
    (old.path / "notes.txt").write_text("mine")
    new = open_bundle(again(old))
    assert new.manifest["files"] == old.manifest["files"]
    assert sorted(path.name for path in new.path.iterdir()) == [
        "expert.onnx", "expert.onnx.data", "labels.txt", "manifest.json", "report.json",
    ]  # fmt: skip
    assert new.manifest["reject"] == FOUND.reject.to_mapping()
    assert json.loads((new.path / "report.json").read_text()) == {"seconds": 1, "calibration": FOUND.to_mapping()}
    assert (old.path / "notes.txt").read_text() == "mine"
    with pytest.raises(FileSystemError, match=r"'notes\.txt', which its manifest does not list"):
        again(old, force=True)


def test_a_file_that_changed_since_is_not_certified(old: Bundle) -> None:
    (old.path / "labels.txt").write_bytes(b"b\n")
    with pytest.raises(BundleError, match=r"labels\.txt"):
        open_bundle(again(old))


def test_a_link_in_place_of_a_file_is_not_followed(old: Bundle, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (old.path / "labels.txt").unlink()
    (old.path / "labels.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(FileSystemError, match="not a regular file"):
        again(old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.expert", "secret"]


@pytest.mark.parametrize("report", ["missing", "link", "folder"])
def test_a_bundle_without_a_report(old: Bundle, tmp_path: Path, report: str) -> None:
    (tmp_path / "secret").write_text('{"secret": 1}')
    path = old.path / "report.json"
    path.unlink()
    if report == "link":
        path.symlink_to(tmp_path / "secret")
    elif report == "folder":
        path.mkdir()
    assert json.loads((again(old) / "report.json").read_text()).keys() == {"calibration"}


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": NaN}', "\xff"])
def test_a_damaged_report(old: Bundle, text: str) -> None:
    (old.path / "report.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"report\.json"):
        again(old)
    assert not old.path.with_name("b.expert").exists()


def test_a_full_disk(old: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import shutil

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(FileSystemError, match="disk is full"):
        again(old)
    assert [path.name for path in old.path.parent.iterdir()] == ["a.expert"]
