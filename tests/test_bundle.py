"""Bundles: what is written is what is opened, and only a bundle is ever replaced."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import expertc
from expertc.bundle import BUNDLE_SCHEMA, FILES, default_name, open_bundle, reserve, write_bundle
from expertc.card import Preprocess
from expertc.errors import BundleError, ExitCode, FileSystemError, LabelsError

CONTENTS: Mapping[str, bytes | Path] = {
    "expert.onnx": b"\x08\x0a" * 500,
    "labels.txt": b"rays\nsharks\n",
    "README.txt": "Gebrauch: öffnen".encode(),
}


def write(path: Path, *, force: bool = False, **manifest: Any) -> Path:
    return write_bundle(path, CONTENTS, manifest, {"seconds": 1.5}, force=force)


def test_what_was_written_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "sharks-rays.expert"
    assert write(path, selection=["rays", "sharks"]) == path
    bundle = open_bundle(path)
    assert bundle.path == path
    assert bundle.labels == ("rays", "sharks")
    assert bundle.preprocess is None
    assert bundle.manifest["selection"] == ["rays", "sharks"]
    assert bundle.manifest["schema"] == BUNDLE_SCHEMA
    assert bundle.file("expert.onnx").read_bytes() == CONTENTS["expert.onnx"]
    assert json.loads(bundle.file("report.json").read_text()) == {"seconds": 1.5}
    assert open_bundle(str(path)).manifest == bundle.manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["sharks-rays.expert"]


def test_every_file_is_listed_with_its_size_and_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.expert")
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert listed.keys() | {"manifest.json", "report.json"} == {entry.name for entry in path.iterdir()} <= set(FILES)
    for name, facts in listed.items():
        said = subprocess.run(["sha256sum", path / name], capture_output=True, text=True, check=True).stdout
        assert facts == {"bytes": os.path.getsize(path / name), "sha256": said.split()[0]}


def test_a_golden_record_is_not_listed_and_is_kept(tmp_path: Path) -> None:
    """Two processors give the same expert two records, and the same manifest."""
    plain = write(tmp_path / "plain.expert")
    assert open_bundle(plain).golden is None
    paths = [
        write_bundle(tmp_path / name, {**CONTENTS, "golden.npz": name.encode()}, {}, {"seconds": 1.5}) for name in "ab"
    ]
    assert len({(path / "manifest.json").read_bytes() for path in (plain, *paths)}) == 1
    bundle = open_bundle(paths[0])
    assert bundle.golden == paths[0] / "golden.npz"
    with reserve(paths[0], force=True) as output:
        output.again(bundle, {"labels.txt": b"a\nb\n"}, {"which": "new"}, {})
    assert (paths[0] / "golden.npz").read_bytes() == b"a"
    write(paths[0], force=True)
    assert not (paths[0] / "golden.npz").exists()
    (tmp_path / "secret").write_bytes(b"secret")
    (paths[1] / "golden.npz").unlink()
    (paths[1] / "golden.npz").symlink_to(tmp_path / "secret")
    bundle = open_bundle(paths[1])
    with pytest.raises(BundleError, match="symbolic link"), reserve(tmp_path / "c.expert") as output:
        output.again(bundle, {}, {}, {})
    assert not (tmp_path / "c.expert").exists()


def test_a_manifest_is_plain_text_and_the_same_each_time(tmp_path: Path) -> None:
    hostile = {"label": "\x1b[2J[/]\u202eé", "order": {"b": 1, "a": 2}}
    texts = [(write(tmp_path / name, **hostile) / "manifest.json").read_bytes() for name in ("a", "b")]
    assert texts[0] == texts[1]
    assert all(byte == 10 or 32 <= byte < 127 for byte in texts[0])
    assert open_bundle(tmp_path / "a").manifest["label"] == hostile["label"]


def test_preprocessing_is_read_back(tmp_path: Path) -> None:
    spec = Preprocess.imagenet(128)
    files = {**CONTENTS, "preprocess.json": json.dumps(spec.to_mapping()).encode()}
    write_bundle(tmp_path / "a.expert", files, {}, {})
    assert open_bundle(tmp_path / "a.expert").preprocess == spec


def test_a_bundle_without_labels_says_so(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.expert", {"expert.onnx": b"x"}, {}, {})
    bundle = open_bundle(tmp_path / "a.expert")
    with pytest.raises(BundleError, match=r"no labels\.txt"):
        _ = bundle.labels
    with pytest.raises(BundleError, match=r"no engine\.plan"):
        bundle.file("engine.plan")
    write_bundle(tmp_path / "b.expert", {"labels.txt": b"rays\n\nsharks\n"}, {}, {})
    with pytest.raises(LabelsError, match="Line 2"):
        _ = open_bundle(tmp_path / "b.expert").labels


def test_files_are_moved_in(tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 1000)
    write_bundle(tmp_path / "a.expert", {"expert.onnx.data": source}, {}, {})
    assert not source.exists()
    facts = open_bundle(tmp_path / "a.expert").manifest["files"]["expert.onnx.data"]
    assert facts == {"bytes": 1000, "sha256": hashlib.sha256(b"w" * 1000).hexdigest()}


@pytest.mark.parametrize("name", ["../a", "/a", "a/b", "", ".", ".hidden", "a\n", "manifest.json", "report.json", "é"])
def test_a_wrong_name_is_a_bug_of_the_caller(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name for a file"):
        write_bundle(tmp_path / "a.expert", {name: b""}, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_not_json_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_bundle(tmp_path / "a.expert", CONTENTS, {"x": float("nan")}, {})
    assert list(tmp_path.iterdir()) == []


# -- replacing ---------------------------------------------------------------------------------------------------------


def test_an_existing_bundle_stays_without_force(tmp_path: Path) -> None:
    path = write(tmp_path / "a.expert", which="old")
    with pytest.raises(FileSystemError, match="already exists") as caught:
        write(path, which="new")
    assert "--force" in caught.value.hint
    assert caught.value.exit_code == ExitCode.FILE_SYSTEM
    assert open_bundle(path).manifest["which"] == "old"


def test_force_replaces_all_of_it(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "a.expert", {**CONTENTS, "engine.plan": b"p"}, {"which": "old"}, {})
    write(path, which="new", force=True)
    assert open_bundle(path).manifest["which"] == "new"
    assert not (path / "engine.plan").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.expert"]


def test_force_replaces_a_damaged_bundle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.expert")
    (path / "expert.onnx").write_bytes(b"half")
    (path / "labels.txt").unlink()
    write(path, force=True)
    assert open_bundle(path).labels == ("rays", "sharks")


def test_force_writes_where_nothing_is(tmp_path: Path) -> None:
    assert open_bundle(write(tmp_path / "a.expert", force=True)).labels == ("rays", "sharks")


def test_a_reserved_place_is_refused_before_the_work(tmp_path: Path) -> None:
    path = write(tmp_path / "a.expert")
    with pytest.raises(FileSystemError, match="already exists"), reserve(path):
        pytest.fail("the work was begun")
    with reserve(tmp_path / "b.expert") as output:
        with pytest.raises(FileSystemError, match="Another process"):
            write(tmp_path / "b.expert")
        output.write(CONTENTS, {}, {})
    assert open_bundle(tmp_path / "b.expert").labels == ("rays", "sharks")


RACE = """
import os, sys
from pathlib import Path
from expertc.bundle import write_bundle
from expertc.errors import FileSystemError

path, go = Path(sys.argv[1]), os.pipe()
for number in range(5):
    if os.fork() == 0:
        os.close(go[1])
        os.read(go[0], 1)  # until all are there
        done = 0
        for turn in range(6):
            try:
                write_bundle(path, {"expert.onnx": bytes([number]) * 10000}, {"by": number}, {}, force=True)
                done += 1
            except FileSystemError as error:
                assert "Another process" in str(error), error
        os._exit(0 if done else 9)
os.close(go[1])
print([os.waitpid(-1, 0)[1] >> 8 for _ in range(5)])
"""


def test_many_builds_into_one_output_at_the_same_time(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(expertc.__file__).parent.parent)}
    command = [sys.executable, "-c", RACE, str(tmp_path / "a.expert")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) <= {0, 9}, done.stderr  # 1 would be an error nobody expected
    bundle = open_bundle(tmp_path / "a.expert")
    assert set(bundle.file("expert.onnx").read_bytes()) == {bundle.manifest["by"]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.expert"]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "name"),
    [
        (["sharks", "rays"], "sharks-rays.expert"),
        (["Sea Rays"], "sea-rays.expert"),
        (["a", "b", "c"], "a-b-c.expert"),
        (["Räuber/../etc", "x"], "rauber-etc-x.expert"),
    ],
)
def test_names_of_few_classes(classes: list[str], name: str) -> None:
    assert default_name(classes) == name


def test_names_of_many_classes() -> None:
    four = default_name(["a", "b", "c", "d"])
    digest = hashlib.sha256(b"a\nb\nc\nd").hexdigest()
    assert four == f"4-classes-{digest[:8]}.expert"
    assert default_name(["a", "b", "c", "d"], "0123456789abcdef") == "4-classes-01234567.expert"
    assert default_name(["鯨"]).startswith("1-classes-")
    assert default_name(["a" * 100, "b"]).startswith("2-classes-")


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_names_hold_nothing_but_letters_digits_and_dashes(classes: list[str]) -> None:
    stem = default_name([name.encode("utf-8", "ignore").decode() for name in classes]).removesuffix(".expert")
    assert stem
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(stem) <= 80
    assert stem[0] != "-"
