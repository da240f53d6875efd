"""Benchmarks: what is timed, what is said about it, and what is written down."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from expertc.backends import processor
from expertc.backends.cpu import CpuSession
from expertc.bench import BenchReport, Entry, bench, environment, write_report
from expertc.bench.report import FORMAT, between, milliseconds, warnings_about
from expertc.bundle import write_bundle
from expertc.errors import BundleError, ExitCode, FileSystemError, ModelError, UsageError
from expertc.measure import Ratio, Summary, Warmup


def model(batch: int | str = "batch", size: int | str = 8, features: int = 2) -> bytes:
    """A flat classifier over square RGB images."""
    weight = np.random.default_rng(0).normal(size=(192, features)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])],
        "flat",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, features])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "full.onnx", **options: Any) -> Path:
        (tmp_path / name).write_bytes(model(**options))
        return tmp_path / name

    return write


def test_a_model_and_a_bundle_in_one_run(tmp_path: Path, onnx_file: Callable[..., Path]) -> None:
    full = onnx_file(features=2000)
    expert = write_bundle(tmp_path / "rays.expert", {"expert.onnx": model()}, {}, {})
    report = bench([full, str(expert)], seconds=0.2, threads=1)
    first, second = report.entries
    assert (first.name, second.name) == ("full.onnx", "rays.expert")
    assert first.sha256 == hashlib.sha256(full.read_bytes()).hexdigest()
    assert second.sha256 == hashlib.sha256(model()).hexdigest()
    assert first.shape == second.shape == (1, 3, 8, 8)
    assert first.summary.n == second.summary.n
    assert first.ratio.value == 1
    assert 0 < second.ratio.value < 1  # 2 columns instead of 2000
    assert report.environment["threads"] == 1
    assert report.environment["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    assert len(report.environment["load"]) == 2


def test_offline_counts_images(onnx_file: Callable[..., Path]) -> None:
    paths = [onnx_file("free.onnx"), onnx_file("four.onnx", batch=4)]
    report = bench(paths, scenario="offline", seconds=0.1, batch_size=32)
    free, four = report.entries
    assert (free.shape[0], four.shape[0]) == (32, 4)
    assert free.images_per_second == pytest.approx(32 / free.summary.mean)
    per_image = [np.median(entry.summary.median or math.nan) / entry.shape[0] for entry in (free, four)]
    assert four.ratio.value == pytest.approx(per_image[1] / per_image[0], rel=0.5)
    assert free.ratio.value == 1


def test_everyone_sees_the_same_noise(onnx_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, set[str]] = {}
    run = CpuSession.run

    def note(self: CpuSession, x: np.ndarray) -> dict[str, np.ndarray]:
        seen.setdefault(id(self), set()).add(f"{x.dtype} {x.shape} {hashlib.sha256(x.tobytes()).hexdigest()}")
        return run(self, x)

    monkeypatch.setattr(CpuSession, "run", note)
    bench([onnx_file("a.onnx"), onnx_file("b.onnx")], seconds=0.02)
    first, second = seen.values()
    assert first == second
    assert len(first) == 1
    assert next(iter(first)).startswith("float32 (1, 3, 8, 8)")


def test_the_same_model_against_itself(onnx_file: Callable[..., Path], tmp_path: Path) -> None:
    path = onnx_file("full.onnx")
    (tmp_path / "other").mkdir()
    other = path.rename(tmp_path / "other" / "full.onnx")
    names = [entry.name for entry in bench([other, other, onnx_file("full.onnx")], seconds=0.02).entries]
    assert names == ["full.onnx", "full.onnx (2)", "full.onnx (3)"]


@pytest.mark.parametrize(
    ("options", "scenario", "words"),
    [
        ({"size": "side"}, "single-stream", r"no fixed size \(\?, 3, \?, \?\)"),
        ({"size": "side", "batch": 2}, "offline", r"no fixed size \(2, 3, \?, \?\)"),
        ({"batch": 2}, "single-stream", "2 images at once"),
        ({}, "server", "no scenario 'server'"),
        ({"batch": 2}, "camera", "2 images at once"),
    ],
)
def test_what_cannot_be_measured(
    onnx_file: Callable[..., Path], options: dict[str, Any], scenario: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        bench([onnx_file(**options)], scenario=scenario, seconds=0.01)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint


def test_nothing_to_measure(tmp_path: Path, onnx_file: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        bench([], seconds=1)
    with pytest.raises(UsageError, match="nothing to measure"):
        bench([onnx_file()], seconds=0)
    with pytest.raises(ModelError, match="does not exist"):
        bench([tmp_path / "nowhere.onnx"], seconds=0.01)
    with pytest.raises(BundleError, match="manifest"):
        bench([tmp_path], seconds=0.01)


# -- reports -----------------------------------------------------------------------------------------------------------


def entry(name: str = "a", durations: tuple[float, ...] = (0.002,) * 100, ratio: Ratio | None = None) -> Entry:
    turns = tuple((each,) for each in durations)
    return Entry(name, name, "0" * 64, (1, 3, 8, 8), Summary.of(durations), ratio or Ratio(0.5, 0.45, 0.55, 100), turns)


def report(*entries: Entry, warmup: Warmup | None = None, warnings: tuple[str, ...] = ()) -> BenchReport:
    facts = {"cpu": "A | B", "cores": 2, "governor": None, "load": [0.1, 1.25]}
    return BenchReport("single-stream", 1.0, 0, warmup or Warmup(0.5, True, 0.01), entries, facts, warnings)


def test_json_holds_everything() -> None:
    mapping = report(entry(), warmup=Warmup(1.0, False, math.inf), warnings=("Busy.",)).to_mapping()
    read = json.loads(json.dumps(mapping, allow_nan=False))
    assert read == mapping
    assert read["format"] == FORMAT
    assert read["warmup"] == {"seconds": 1.0, "stable": False, "spread": None}
    (found,) = read["models"]
    assert found["summary"]["median"] == 0.002
    assert found["summary"]["p99"] is None
    assert found["ratio"] == {"value": 0.5, "low": 0.45, "high": 0.55, "blocks": 100}
    assert found["images_per_second"] == pytest.approx(500)
    assert read["warnings"] == ["Busy."]


def test_the_page() -> None:
    page = report(
        entry("x|y"), entry("few", (0.001,) * 5, Ratio(2.0, None, None, 5)), warnings=("Busy.",)
    ).to_markdown()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows[1] == r"| x\|y | 1 | 100 | 2.000 | 2.000 | – | 500.0 | 0.500 (0.450 to 0.550) |"
    assert rows[2] == "| few | 1 | 5 | – | – | – | 1000.0 | 2.000 (too few samples) |"
    hostile = report(entry("[a](b) `c` <img src=x>\\")).to_markdown()
    assert r"| \[a](b) \`c\` &lt;img src=x>\\ | 1 |" in hostile
    assert all(row.replace(r"\|", "").count("|") == rows[0].count("|") for row in rows)
    for words in ("# Benchmark: single-stream", "**Busy.**", r"A \| B", "governor: unknown", "0.1, 1.25", "p90 64"):
        assert words in page


def test_numbers_for_tables() -> None:
    assert milliseconds(0.0123456) == "12.346"
    assert milliseconds(None) == "–"
    assert between(Ratio(1.0, 0.9, 1.1, 9)) == "1.000 (0.900 to 1.100)"


def test_warnings() -> None:
    steady, calm = entry(), Warmup(1.0, True, 0.01)
    assert warnings_about([steady], calm, load=1.5, cores=2) == ()
    (busy,) = warnings_about([steady], calm, load=2.5, cores=2)
    assert "load 2.5 on 2 cores" in busy
    (moving,) = warnings_about([steady], Warmup(5.0, False, 0.2), load=0, cores=2)
    assert "warm-up" in moving
    (varies,) = warnings_about([entry("wild", (0.001, 0.003) * 50)], calm, load=0, cores=2)
    assert "wild vary by 50" in varies
    assert warnings_about([entry("calm", (0.001, 0.00104) * 50)], calm, load=0, cores=2) == ()
    (few,) = warnings_about([entry("short", (0.001,) * 63)], calm, load=0, cores=2)
    assert "short ran 63 times" in few


def test_a_report_is_written_and_replaced(tmp_path: Path) -> None:
    assert write_report(report(entry("old")), tmp_path / "out") == tmp_path / "out"
    write_report(report(entry("new")), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["models"][0]["name"] == "new"
    assert "| new |" in (tmp_path / "out" / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "report.html", "report.json", "report.md"]


@pytest.mark.parametrize("kind", ["file", "empty", "foreign", "more", "not json", "list", "other format"])
def test_nothing_else_is_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        texts = {"not json": "{", "list": "[1]", "other format": '{"format": "x"}', "more": f'{{"format": "{FORMAT}"}}'}
        if kind == "foreign":
            (out / "photo.jpg").touch()
        if kind in texts:
            (out / "report.json").write_text(texts[kind])
            (out / "report.md").touch()
        if kind == "more":
            (out / "notes").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileSystemError, match="not an earlier benchmark report"):
        write_report(report(entry()), out)
    assert sorted(tmp_path.rglob("*")) == before


# -- the machine -------------------------------------------------------------------------------------------------------


def test_this_machine() -> None:
    facts = environment.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert environment.load() >= 0


def test_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPUINFO", "BOARD"):
        monkeypatch.setattr(processor, name, tmp_path / name)
    assert processor.processor_name()
    (tmp_path / "BOARD").write_bytes(b"NVIDIA Jetson Orin Nano\x1b[2J\0")
    assert processor.processor_name() == "NVIDIA Jetson Orin Nano[2J"
    (tmp_path / "CPUINFO").write_text("processor\t: 0\nmodel name\t: A CPU  @ 3 GHz\nmodel name\t: another\n")
    assert processor.processor_name() == "A CPU @ 3 GHz"
