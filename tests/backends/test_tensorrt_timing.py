"""The timing cache and the history of builds. Builds are simulated; files, locks and processes are real."""

from __future__ import annotations

import errno
import fcntl
import os
from hashlib import sha256
from pathlib import Path

import pytest
from fake_tensorrt import RELEASES, Scene, fake
from test_tensorrt_build import classifier

from expertc.backends.tensorrt import history, timing
from expertc.backends.tensorrt.builder import Plan, build_plan
from expertc.backends.tensorrt.options import Options


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return timing.place("10.3.0", "8.7", "540.4.0 (CUDA 12.6)")


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "expert.onnx"
    path.write_bytes(classifier())
    return path


def build(scene: Scene, onnx: Path, cache: Path, release: str = "10.3") -> Plan:
    return build_plan(fake(release, scene), onnx, Options(), cache=cache)


@pytest.mark.parametrize("release", RELEASES)
def test_the_second_build_times_nothing_again(release: str, cache: Path, onnx: Path) -> None:
    scene = Scene()
    assert build(scene, onnx, cache, release).notes == build(scene, onnx, cache, release).notes == ()
    assert scene.timed == [5, 0]
    assert cache.parent.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in cache.parent.iterdir()} == {cache.name, cache.with_suffix(".lock").name}


def test_its_name_tells_what_it_is_for_and_is_a_name(cache: Path) -> None:
    assert cache.name == "10.3.0-sm8.7-540.4.0_CUDA_12.6_.cache"
    assert timing.place("../..", "\n", "a/b").parent == cache.parent


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"garbage" * 100, "damaged"),
        (b"fake timing cache 10.3.0\n", "damaged"),  # not with our hash: never handed to native code
        (sha256(b"nonsense").digest() + b"nonsense", "begun anew"),
        (sha256(b"fake timing cache 8.6.0\nx\n").digest() + b"fake timing cache 8.6.0\nx\n", "begun anew"),
    ],
)
def test_one_that_cannot_be_used_costs_only_time(content: bytes, words: str, cache: Path, onnx: Path) -> None:
    cache.parent.mkdir(parents=True, mode=0o700)
    cache.write_bytes(content)
    scene = Scene()
    assert words in " ".join(build(scene, onnx, cache).notes)
    if "damaged" in words:
        assert scene.called("IBuilderConfig.create_timing_cache")[0] == (b"",)
    assert build(scene, onnx, cache).notes == ()  # it has been replaced
    assert scene.timed == [5, 0]


def test_one_that_others_could_have_written_is_not_read(cache: Path, onnx: Path) -> None:
    scene = Scene()
    build(scene, onnx, cache)
    cache.parent.chmod(0o777)
    assert "others may write" in " ".join(build(scene, onnx, cache).notes)
    assert scene.timed == [5, 5]


def test_what_a_link_leads_to_stays_as_it_is(cache: Path, onnx: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    cache.parent.mkdir(parents=True, mode=0o700)
    cache.symlink_to(target)
    assert "is not used: it is damaged" in " ".join(build(Scene(), onnx, cache).notes)
    assert target.read_bytes() == b"precious"


def test_what_another_build_learnt_meanwhile_is_kept(cache: Path, onnx: Path) -> None:
    other = onnx.with_name("other.onnx")
    other.write_bytes(classifier("int8"))
    late = Scene(during=lambda: build(Scene(), other, cache) and None)
    assert build(late, onnx, cache).notes == ()
    scene = Scene()
    build(scene, onnx, cache)
    build(scene, other, cache)
    assert scene.timed == [0, 0]


def test_a_lock_that_is_never_given_back_is_not_waited_for(
    cache: Path, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "PATIENCE", 0.0)
    scene = Scene()
    build(scene, onnx, cache)
    before = cache.read_bytes()
    with open(cache.with_suffix(".lock"), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is not kept" in " ".join(build(scene, onnx, cache).notes)
    assert cache.read_bytes() == before


def test_a_full_disk_and_a_folder_that_cannot_be_made_are_notes(
    cache: Path, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert build(Scene(), onnx, cache).notes == (
            f"The timing cache '{cache}' is not kept: No space left on device.",
        )
    assert [path.name for path in cache.parent.iterdir()] == [cache.with_suffix(".lock").name]
    beside = onnx.parent / "file" / "timing" / "x.cache"
    beside.parents[1].write_text("a file where a folder should be")
    assert "is not kept: Not a directory" in build(Scene(), onnx, beside).notes[-1]


def test_a_failed_build_leaves_the_cache_as_it_was(cache: Path, onnx: Path) -> None:
    build(Scene(), onnx, cache)
    before = cache.read_bytes()
    with pytest.raises(Exception, match="does not say why"):
        build(Scene(fails=True), onnx, cache)
    assert cache.read_bytes() == before


# -- history -----------------------------------------------------------------------------------------------------------


def test_an_estimate_rests_on_this_devices_own_builds(tmp_path: Path) -> None:
    path = tmp_path / "here" / "x.history"
    assert history.expected(path, 100, "fp32") is None
    history.remember(path, 100, "fp32", 60)
    assert history.expected(path, 100, "fp32") == 60
    assert history.expected(path, 50, "fp32") == 30
    assert history.expected(path, 100, "fp16") == 60  # for want of a better one
    history.remember(path, 100, "fp16", 90)
    assert history.expected(path, 100, "fp16") == 90
    history.remember(path, 100, "fp32", 20)  # with the timing cache it was faster
    assert history.expected(path, 100, "fp32") == 20
    assert history.expected(path, 0, "fp32") is None


def test_the_history_stays_small_and_survives_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "x.history"
    path.write_bytes(b"\xff\n[]\n{}\n" + b"[" * 20_000 + b'\n{"layers": 1e999, "precision": "fp32", "seconds": 1}\n')
    assert history.expected(path, 10, "fp32") is None
    for seconds in range(history.KEPT + 20):
        history.remember(path, 10, "fp32", float(seconds))
    assert len(path.read_text().splitlines()) == history.KEPT
    assert history.expected(path, 10, "fp32") == history.KEPT + 19
    history.remember(Path(os.devnull) / "x", 10, "fp32", 1.0)  # cannot be written: nothing happens
