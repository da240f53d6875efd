"""Where a package is written: whole or not at all, and nothing of somebody else's is replaced."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from packaged import bundle_of, network
from rainbow import tree

from expertc.errors import FileSystemError, LabelsError
from expertc.package import package, place


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(network(), tmp_path_factory.mktemp("once"))


@pytest.fixture
def bundle(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / once.name))


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """A package, with what nvinfer compiles beside it."""
    made = package(bundle, "deepstream", tmp_path / "out").path
    (made / "model.onnx_b1_gpu0_fp32.engine").write_bytes(b"compiled")
    return made


def test_the_command(cli, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, where in (("triton", "model_repository/trees"), ("deepstream", "deepstream/trees")):
        code, out, err = cli("package", bundle, "--format", kind)
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= 80
        assert where in out
        assert cli("package", bundle, "--format", kind).code == 9
        found = json.loads(cli("package", bundle, "--format", kind, "--force", "--json").out)
        assert found["path"] == where
        assert sorted(found["files"]) == sorted(
            path.relative_to(where).as_posix() for path in Path(where).rglob("*") if path.is_file()
        )
        assert cli("package", bundle, "--format", kind, "--force", "-q").out == f"{where}\n"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--format", "tflite"), 2, "no format"),
        ((), 2, "--format"),
        (("--format", "triton", "--max-batch", "0"), 2, "--max-batch 0"),
        (("--format", "triton", "--max-batch", "8"), 2, "cannot batch"),
        (("--format", "triton", "--objects-of", "1"), 2, "--objects-of"),
        (("--format", "deepstream", "--objects-of", "0"), 2, "--objects-of"),
        (("--format", "deepstream", "--engine"), 2, "its own engine"),
        (("--format", "triton", "--engine"), 3, "--save-engine"),
        (("--format", "triton", "-o", "missing/deep"), 9, "missing"),
        (("--format", "triton", "-o", "trees.expert/labels.txt"), 9, "labels.txt"),
    ],
)
def test_each_reason_has_its_code(cli, bundle: Path, tmp_path: Path, monkeypatch, options, code: int, words: str):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    found = cli("package", bundle, *options)
    assert (found.code, found.out) == (code, "")
    assert words in found.err
    assert tree(tmp_path) == before


def test_a_missing_or_damaged_bundle(cli, bundle: Path, tmp_path: Path) -> None:
    assert cli("package", tmp_path / "none", "--format", "triton").code == 3
    (bundle / "labels.txt").write_text("oak\n")
    assert cli("package", bundle, "--format", "triton", "-o", tmp_path / "out").code == 3
    assert not (tmp_path / "out").exists()


def test_several_models_in_one_repository(bundle: Path, tmp_path: Path) -> None:
    for name in ("trees", "woods"):
        package(bundle, "triton", tmp_path / "models", name=name)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["trees", "woods"]


def test_an_earlier_package_and_its_engine_are_replaced(bundle: Path, folder: Path) -> None:
    """The engine belongs to the network that goes: nvinfer would load it for the new one."""
    before = tree(folder)
    assert package(bundle, "deepstream", folder.parent, force=True).path == folder
    assert before.keys() - tree(folder).keys() == {"model.onnx_b1_gpu0_fp32.engine"}
    assert [path.name for path in folder.parent.iterdir()] == ["trees"]


OUTSIDE = '{"schema": 1, "files": {"../x": {}}, "derived": []}'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config_infer_primary.txt").write_text("[property]\n"), "config_infer_primary.txt.* not as"),
        (lambda f: (f / "labels.txt").unlink(), "labels.txt.* not as"),
        (lambda f: (f / "mine.txt").write_text("notes"), "holds 'mine.txt'"),
        (lambda f: (f / "2").mkdir(), "holds '2'"),
        (lambda f: (f / "link").symlink_to(f.parent), "holds 'link'"),
        (lambda f: (f / "labels.txt").replace(f / "package.json"), "not a package"),
        (lambda f: linked(f / "labels.txt", f / "model.onnx"), "holds 'labels.txt'"),
        (lambda f: os.mkfifo(f / "pipe"), "holds 'pipe'"),
        (lambda f: (f / "package.json").unlink(), "not a package"),
        (lambda f: (f / "package.json").write_text("{}"), "not a package"),
        (lambda f: (f / "package.json").write_text(OUTSIDE), "not a package"),
        (lambda f: (f / "package.json").write_text("[" * 100_000), "not a package"),
    ],
)  # fmt: skip
def test_what_somebody_changed_is_kept(change, words: str, bundle: Path, folder: Path) -> None:
    change(folder)
    before = kept(folder.parent)
    with pytest.raises(FileSystemError, match=words) as caught:
        package(bundle, "deepstream", folder.parent, force=True)
    assert caught.value.hint
    assert kept(folder.parent) == before


def linked(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def kept(folder: Path) -> dict[str, object]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else path.is_dir()
        for path in folder.rglob("*")
    }


def test_a_link_in_its_place(bundle: Path, folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(FileSystemError, match="not a directory"):
        package(bundle, "deepstream", folder.parent, force=True)
    assert folder.is_symlink()


@pytest.mark.parametrize("force", [False, True])
def test_what_fails_half_way_leaves_nothing(force: bool, bundle: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    if force:
        package(bundle, "triton", out)
    before = tree(out) if force else None

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place.shutil, "copyfile", full)
    with pytest.raises(FileSystemError, match="disk is full"):
        package(bundle, "triton", out, force=True)
    assert (tree(out) if force else out.exists()) == (before if force else False)


def test_every_file_is_on_the_disk_before_it_is_named(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    """The graph of Triton stands one folder further down."""
    flushed: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.fstat(fd).st_ino), sync(fd))[1])
    folder = package(bundle, "triton", tmp_path / "out").path
    assert {path.stat().st_ino for path in folder.rglob("*")} <= set(flushed)


def test_labels_that_deepstream_would_confuse(tmp_path: Path) -> None:
    """It cuts labels at ';', and at 127 bytes."""
    labels = ("a;b", "é" * 90, "c")
    folder = package(bundle_of(network(labels=labels), tmp_path), "deepstream", tmp_path / "out").path
    assert (folder / "labels.txt").read_text(encoding="utf-8") == f"a,b;{'é' * 63};c\n"
    for number, pair in enumerate([("a;b", "a,b"), ("x" * 150, "x" * 151)]):
        with pytest.raises(LabelsError, match="Two classes would both be"):
            package(bundle_of(network(labels=pair), tmp_path, f"b{number}"), "deepstream", tmp_path / "out")
