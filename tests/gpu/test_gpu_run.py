"""The whole of ``benchmarks.gpu`` on look-alikes of TensorRT and of the CUDA driver, with networks of a few weights.

**Simulated**: no number of these runs means anything. What is real: the files, the steps and their order, what becomes
of failures, and that the scores of the graphs that are put together again are ONNX Runtime's.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forest import forest
from rainbow import photos

from benchmarks import forms
from benchmarks.gpu import contests, hollow, prepare
from benchmarks.gpu.contests import Contest, Entry
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.run import ATTEMPTS, run
from benchmarks.gpu.table import SIMULATED, write
from expertc.source import open_source

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "backends"))

from fake_cuda import FakeCuda, compiled
from fake_tensorrt import Scene, fake

TREE = tuple(Entry("tree", form) for form in (forms.FULL, forms.CUT, contests.GROUPED))
CONTESTS = (
    Contest("trees", "trees", (*TREE, Entry("tree", forms.CUT, "fp16")), TREE[1], 1.25),
    contests.expert("trained", contests.SEA, forms=()),
)


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is prepared for two small contests: a network of random weights, and one that counts as trained."""
    folder, scratch, data = (tmp_path_factory.mktemp(name) for name in ("carried", "scratch", "photos"))
    full = scratch / "tree-4-separate.onnx"
    full.write_bytes(forest("separate").bytes())
    photos(data, each=8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hollow, "LEAST", 8)
        patched.setattr(prepare, "CONTESTS", CONTESTS)
        patched.setitem(contests.ALL, "tree", forms.Network("tree", 4, "separate", "warm"))
        patched.setitem(contests.ALL, contests.SEA, forms.Network(None, 0, "", "warm"))
        patched.setattr(forms, "open_source", lambda path=full: open_source(path))
        prepare.prepare(folder, scratch, data, "", (8, 6))
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> FakeCuda:
    return FakeCuda(compiled(tmp_path_factory.mktemp("cuda")))


@pytest.fixture
def scene(request: pytest.FixtureRequest, library: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A machine with a GPU, as far as the package can tell."""
    library.reset()
    scene = Scene(launched=library.launched)
    monkeypatch.setattr("expertc.backends.tensorrt.driver.LIBRARY", str(library.path))
    monkeypatch.setitem(sys.modules, "tensorrt", fake(getattr(request, "param", "8.6"), scene))
    yield scene
    library.check()


def here(**options: Any) -> Machine:
    return Machine.here(**{"simulated": True, "child": False, **options})


def go_on(carried: Path, place: Path, limit: float = 600.0, only: str = "", **options: Any) -> bool:
    return run(carried, place / "work", place / "found", here(**options), limit, 0.2, only)


def read(place: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "found" / f"{name}.json").read_text())
    return found


def test_what_is_carried(carried: Path) -> None:
    plan = json.loads((carried / "plan.json").read_text())
    ids = [engine["id"] for engine in plan["engines"]]
    assert ids == [
        "tree-full-model-fp32", "tree-cut-fp32", "tree-fused-grouped-fp32", "tree-cut-fp16",
        *(f"sea-animals-sharks-and-rays-{name}" for name in ("full-model-fp32", "cut-fp32", "cut-fp16", "cut-int8")),
    ]  # fmt: skip
    assert plan["left_out"] == {}
    for engine in plan["engines"]:
        drawn = json.loads((carried / engine["draws"]).read_text())
        assert bool(drawn) is not engine["trained"]
        assert engine["images"] == ("photos" if engine["trained"] else "noise-3x8x8")
    assert [contest["base"] for contest in plan["contests"]] == [ids[1], ids[5]]


@pytest.mark.parametrize("scene", ["8.6", "10.3", "11.4"], indirect=True)
def test_to_the_end(carried: Path, scene: Scene, tmp_path: Path) -> None:
    assert go_on(carried, tmp_path)
    plan = json.loads((carried / "plan.json").read_text())
    for about in plan["engines"]:
        step = read(tmp_path, f"engine-{about['id']}")
        [scores] = step["outputs"].values()
        assert step["simulated"] is True
        assert (scores["finite"], scores["images"]) == (True, 8 if about["trained"] else 16)
        if about["precision"] == "fp32":
            assert scores["error"] <= 1e-6
            assert scores["alike"] == scores["images"]
        else:
            assert 0 < scores["error"] < 0.1  # it is another graph, on the same weights
    for contest in plan["contests"]:
        times = read(tmp_path, f"contest-{contest['id']}")
        rows = times["rows"]
        assert len(rows) == 2 * len(contest["engines"])
        base = rows[contest["base"] + ", CUDA graph"]
        assert base["over_base"]["GPU Compute Time"][0] == 1
        # The look-alike's clock: 1 ms a copy, 10 ms a function.
        assert base["median_ms"]["H2D Latency"] == pytest.approx(1)
        assert base["median_ms"]["GPU Compute Time"] == pytest.approx(10)
    text = write(tmp_path / "found", tmp_path / "results")
    assert text.count(SIMULATED) == 1
    assert not (tmp_path / "results").exists()
    assert all(engine["form"] in text for engine in plan["engines"])
    # All forms take the same by that clock, but for what the machine itself does in between.
    assert re.search(
        r"Budget: tree-fused-\w+-fp32 takes [01]\.\d\d times the base, at most 1\.25 times is wanted", text
    )
    assert "It says nothing about a Jetson's latency" in " ".join(text.split())


def test_step_by_step_and_after_being_cut_off(carried: Path, scene: Scene, tmp_path: Path) -> None:
    calls = 0
    while not go_on(carried, tmp_path, limit=0):  # begins one step, whatever the limit
        calls += 1
        assert (
            len(list((tmp_path / "found").glob("engine-*.json")))
            + len(list((tmp_path / "found").glob("contest-*.json")))
            == calls
        )
    assert calls == 9
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "found").glob("[ec]*.json")}
    # A step that was cut off twice in the middle is given up.
    lost = tmp_path / "found" / "contest-trees.json"
    lost.unlink()
    (tmp_path / "found" / "contest-trees.attempts").write_text(str(ATTEMPTS))
    assert go_on(carried, tmp_path)
    assert read(tmp_path, "contest-trees")["error"] == "begun 2 times and never ended"
    assert all(file.stat().st_mtime_ns == time for file, time in before.items() if file != lost)
    assert "begun 2 times" in write(tmp_path / "found", tmp_path / "results")
    # Weights and plans are lost: what is still needed is made again, and nothing else.
    lost.unlink()
    shutil.rmtree(tmp_path / "work")
    assert go_on(carried, tmp_path)
    assert "rows" in read(tmp_path, "contest-trees")
    assert len(list((tmp_path / "work").glob("*.plan"))) == 4


CHILD = """
import sys
from expertc.backends.tensorrt import driver
from fake_cuda import FakeCuda
from fake_tensorrt import Scene, fake
driver.LIBRARY = {library!r}
library = FakeCuda(driver.LIBRARY)
sys.modules["tensorrt"] = fake("8.6", Scene(launched=library.launched, during=lambda: {during}))
"""


def test_builds_in_processes_of_their_own(
    carried: Path, scene: Scene, library: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    stub = tmp_path / "tensorrt.py"
    stub.write_text(CHILD.format(library=str(library.path), during="__import__('time').sleep(60)"))
    for _ in range(ATTEMPTS):  # too long for a call; after the second, it is given up
        assert not go_on(carried, tmp_path, limit=2, only="trees", child=True)
    stub.write_text(CHILD.format(library=str(library.path), during="None"))
    assert not go_on(carried, tmp_path, limit=1, only="trees", child=True)
    assert read(tmp_path, "engine-tree-full-model-fp32")["error"] == "begun 2 times and never ended"
    assert not go_on(carried, tmp_path, limit=60, only="trees", child=True)
    step = read(tmp_path, "engine-tree-cut-fp32")
    assert step["outputs"]["scores"]["error"] <= 1e-6
    assert list((tmp_path / "cache" / "expertc" / "timing").glob("*.cache"))


def test_what_fails_is_said(carried: Path, scene: Scene, tmp_path: Path) -> None:
    scene.unread = ("Concat",)
    assert go_on(carried, tmp_path)
    assert "error" in read(tmp_path, "engine-tree-cut-fp32")
    assert "no plan of tree-cut-fp32" in read(tmp_path, "contest-trees")["error"]
    text = write(tmp_path / "found", tmp_path / "results")
    assert "UNSUPPORTED_NODE" in text  # TensorRT's own word
    assert "Not timed" in text


def test_results_of_another_machine(carried: Path, scene: Scene, tmp_path: Path) -> None:
    assert not go_on(carried, tmp_path, limit=0)
    with pytest.raises(SystemExit, match="another machine"):
        run(carried, tmp_path / "work", tmp_path / "found", here(level=2), 0, 0.2)


def test_weights_that_become_others(carried: Path, scene: Scene, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("benchmarks.gpu.seeds.BITS", 22)
    with pytest.raises(SystemExit, match="another file than the one that was prepared"):
        go_on(carried, tmp_path)
