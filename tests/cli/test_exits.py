"""Early exits on the command line: predict, evaluate, bench, and ``calibrate`` with what it leaves in a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exiting import PLAIN, bundle, by_hand, card, nested
from PIL import Image
from rainbow import CLASSES, SPEC, photos, picture, tree

from expertc import Expert
from expertc.bundle import open_bundle
from expertc.errors import DataError
from expertc.evaluate import recording
from expertc.evaluate.operating import choose, grid, points
from expertc.evaluate.recording import record
from expertc.intervals import wilson
from expertc.runtime import load_image, open_dataset
from expertc.runtime.preprocess import apply

SECONDS = (1e-3, 3e-3, 7e-3)


@pytest.fixture(scope="module")
def seaside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("photos"), each=12)


@pytest.fixture(scope="module")
def tensors(seaside: Path) -> np.ndarray:
    return np.stack([apply(load_image(file), SPEC) for file in sorted(seaside.rglob("*.png"))])


@pytest.fixture(scope="module")
def truth(seaside: Path) -> list[str]:
    return [file.parent.name for file in sorted(seaside.rglob("*.png"))]


@pytest.fixture(params=["nested", "staged"])
def exits(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return bundle(tmp_path / "exits.expert", request.param)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exits take a known time."""
    monkeypatch.setattr(recording, "_time", lambda expert, settings, seconds: SECONDS)


def share(x: np.ndarray, truth: list[str], thresholds: Any, tolerance: float) -> tuple[int, int, list[int]]:
    """Right answers, fine answers, photos per exit: by hand."""
    hits = fine_answers = 0
    counts = [0, 0, 0]
    for label, (number, fine, logits, coarse) in zip(truth, by_hand(x, thresholds, tolerance), strict=True):
        row = CLASSES.index(label)
        hits += bool(logits.argmax() == row if fine else coarse.argmax() == PLAIN.of[row])
        fine_answers += fine
        counts[number - 1] += 1
    return hits, fine_answers, counts


def test_predict_says_how_finely_and_where(cli: Any, exits: Path, tmp_path: Path) -> None:
    blue, red = picture(tmp_path / "blue.png", "blues"), picture(tmp_path / "red.png", "reds")
    code, out, err = cli("predict", exits, blue, red, "--top", 2)
    assert (code, err) == (0, "")
    wanted = by_hand(np.stack([apply(load_image(p), SPEC) for p in (blue, red)]), PLAIN.thresholds, PLAIN.tolerance)
    assert [(number, fine) for number, fine, *_ in wanted] == [(1, True), (1, False)]
    lines = out.splitlines()
    assert lines[0].startswith(f"{blue}: blues 100.0 %, ")
    assert lines[0].endswith(" % (fine, exit 1)")
    assert lines[1].startswith(f"{red}: warm ")
    assert lines[1].endswith(" % (coarse, exit 1)")
    found = json.loads(cli("predict", exits, blue, red, "--json", "--exit", 2, "--tolerance", "inf").out)
    assert [(one["exit"], one["granularity"]) for one in found] == [(2, "fine"), (2, "fine")]
    assert [len(one["predictions"]) for one in found] == [4, 4]
    found = json.loads(cli("predict", exits, red, "--json", "--threshold", "0,9", "--tolerance", "-9").out)
    assert [(one["exit"], one["granularity"]) for one in found] == [(2, "coarse")]
    assert {one["label"] for one in found[0]["predictions"]} == {"warm", "cold"}
    found = json.loads(cli("predict", exits, red, "--json", "--threshold", "0").out)
    assert found[0]["exit"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threshold", "a"), "threshold 'a' is not a number"),
        (("--threshold", "0.5,,0.5"), "threshold '' is not a number"),
        (("--threshold", "nan"), "threshold is not a number"),
        (("--tolerance", "nan"), "tolerance is not a number"),
        (("--tolerance", "much"), "not a valid float"),
        (("--threshold", "1,2,3"), "3 thresholds are given for 2 early exits"),
        (("--exit", "4"), "no exit 4: the last is 3"),
        (("--exit", "0"), "no exit 0"),
        (("--exit", "1", "--threshold", "1"), "An exit that is forced has no threshold"),
    ],
)
def test_settings_that_make_no_sense(cli: Any, tmp_path: Path, seaside: Path, options: Any, said: str) -> None:
    path = bundle(tmp_path / "x.expert", "nested")
    for verb in (("predict", path, seaside), ("evaluate", path, "--data", seaside), ("bench", path)):
        code, out, err = cli(*verb, *options)
        assert (code, out) == (2, "")
        assert said in err


def test_a_bundle_without_exits_and_a_model(cli: Any, bundle: Path, seaside: Path, tmp_path: Path) -> None:
    photo = seaside / "reds" / "0.png"
    for verb in (("predict", bundle, photo), ("evaluate", bundle, "--data", seaside), ("bench", bundle)):
        code, out, err = cli(*verb, "--exit", 1)
        assert (code, out) == (2, "")
        assert "no early exits" in err
    code, _, err = cli("calibrate", bundle, "--data", seaside, "--min-accuracy", 0.5, "-o", tmp_path / "new.expert")
    assert code == 2
    assert "no early exits to calibrate" in err
    model = tmp_path / "nested.onnx"
    model.write_bytes(nested())
    assert card().exits is not None
    code, _, err = cli("evaluate", model, "--data", seaside, "--exit", 1)
    assert code == 2
    assert "Only the exits of a bundle" in err


def test_evaluate_tells_the_answers_as_they_are_given(
    cli: Any, exits: Path, seaside: Path, tensors: Any, truth: Any
) -> None:
    hits, fine, counts = share(tensors, truth, PLAIN.thresholds, PLAIN.tolerance)
    code, out, err = cli("evaluate", exits, "--data", seaside)
    assert (code, err) == (0, "")
    low, high = wilson(hits, 48)
    right = f"{100 * hits / 48:.1f} % right ({100 * low:.1f} to {100 * high:.1f} %)"
    assert f"answers as given: {right}, {100 * fine / 48:.1f} % name a class" in out
    assert "answered by exit " + ", ".join(f"{n}: {100 * c / 48:.1f} %" for n, c in enumerate(counts, 1)) in out
    found = json.loads(cli("evaluate", exits, "--data", seaside, "--json", "--threshold", "0.2").out)["answers"]
    hits, fine, counts = share(tensors, truth, (0.2, 0.2), PLAIN.tolerance)
    assert (found["accuracy"]["hits"], found["fine"]["hits"]) == (hits, fine)
    assert [one["hits"] for one in found["exits"]] == counts


def test_bench_times_the_exit_that_is_asked_for(cli: Any, exits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertc.backends.cpu import CpuSession

    seen = set()
    run = CpuSession.run

    def watched(self: CpuSession, x: Any, controls: Any = None) -> Any:
        found = run(self, x, controls)
        seen.add((self.input, *(found["exit"].tolist() if "exit" in found else ())))
        return found

    monkeypatch.setattr(CpuSession, "run", watched)
    assert cli("bench", exits, "--duration", "0.05", "--exit", 2).code == 0
    is_staged = (exits / "stage2.onnx").exists()
    assert seen == ({("image",), ("features1",)} if is_staged else {("image", 2)})


def test_calibrate_for_an_accuracy(cli: Any, exits: Path, seaside: Path, tensors: Any, truth: Any, timed: None) -> None:
    before, new = tree(exits), exits.parent / "new.expert"
    image = exits.parent / "pareto.png"
    code, out, err = cli(
        "calibrate", exits, "--data", seaside, "--min-accuracy", 0.9, "--min-fine", 0.5, "-o", new, "--picture", image
    )
    assert (code, err) == (0, "")
    assert tree(exits) == before
    about = open_bundle(new).manifest
    entry = about["operating_point"]
    thresholds, tolerance = entry["thresholds"], entry["tolerance"]
    hits, fine, counts = share(tensors, truth, thresholds, tolerance)
    assert (entry["accuracy"]["hits"], entry["fine"]["hits"], [e["hits"] for e in entry["exits"]]) == (
        hits,
        fine,
        counts,
    )
    assert hits >= 0.9 * 48
    assert fine >= 24
    assert entry["accuracy"]["interval"] == pytest.approx(list(wilson(hits, 48)))
    report = json.loads((new / "report.json").read_text())["operating_point"]
    mean = sum(c * s for c, s in zip(counts, SECONDS, strict=True)) / 48
    assert report["mean_ms"] == pytest.approx(1e3 * mean)
    assert (report["goal"], report["exit_ms"]) == ({"min_accuracy": 0.9, "min_fine": 0.5}, [1.0, 3.0, 7.0])
    # nothing else of the bundle changes, and the settings are what it does from now on
    assert {name: tree(new)[name] for name in before if name.endswith(("onnx", "txt"))} == {
        name: data for name, data in before.items() if name.endswith(("onnx", "txt"))
    }
    assert [c["default"] for c in about["controls"]] == [thresholds, [tolerance]]
    assert (about["exits"]["thresholds"], about["exits"]["tolerance"]) == (thresholds, tolerance)
    with Expert.open(new) as expert:
        assert np.bincount(expert.answered(tensors).exit, minlength=4).tolist() == [0, *counts]
    assert f"{100 * hits / 48:.1f} % of 48 photos" in out
    assert f"{1e3 * mean:.3g} ms on average" in out
    assert max(len(line) for line in out.splitlines() if str(exits.parent) not in line) <= 80
    with Image.open(image) as drawn:
        assert drawn.size[0] > 600
        colours = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    assert (colours == (0xD5, 0x5E, 0x00)).all(axis=1).sum() > 50  # the mark


def test_what_is_recorded_gives_what_the_expert_does(exits: Path, seaside: Path, tensors: Any, truth: Any) -> None:
    """Points of the grid against decisions by hand; no cheaper point on it is good enough."""
    unreadable: list[tuple[str, str]] = []
    with Expert.open(exits) as expert:
        images = open_dataset(seaside)
        found = record(expert, images, {name: CLASSES.index(name) for name in CLASSES}, unreadable, seconds=0.05)
    assert all(seconds > 0 for seconds in found.seconds)
    for thresholds, tolerance in (((0.5, 0.4), 0.25), ((0.7, 0.1), -0.1), ((0.0, 0.3), 1.0)):
        (one,) = points(found, [thresholds], tolerance)
        assert (one.hits, one.fine, list(one.exits)) == share(tensors, truth, thresholds, tolerance)
    tried = grid(found)
    best = choose(tried, min_accuracy=0.8)
    assert not [one for one in tried if one.hits >= 0.8 * 48 and one.seconds < best.seconds]


def test_what_cannot_be_reached_is_said(cli: Any, exits: Path, seaside: Path, timed: None) -> None:
    wrong = shutil.copytree(seaside, exits.parent / "wrong")
    before, image = tree(exits.parent), exits.parent / "p.png"
    start = ("calibrate", exits, "--data", seaside, "-o", exits.parent / "new.expert")
    code, out, err = cli(*start, "--max-ms", 0.5, "--picture", image)
    assert (code, out) == (10, "")
    assert "the quickest takes 1 ms" in err
    assert "Ask for --max-ms 1 at least" in err
    assert image.is_file()  # of what there is
    image.unlink()
    picture(wrong / "reds" / "99.png", "blues")
    code, _, err = cli(*start[:3], wrong, *start[4:], "--min-accuracy", 1, "--min-fine", 1)
    assert code == 10
    assert "Ask for --min-accuracy 0." in err
    (wrong / "reds" / "99.png").unlink()
    assert tree(exits.parent) == before
    found = json.loads(cli(*start, "--max-ms", 2, "--json").out)
    assert found["mean_ms"] <= 2
    assert found["accuracy"]["images"] == 48
    assert cli(*start, "--max-ms", 2).code == 9  # it is there


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Nothing says what is to be calibrated"),
        (("--min-accuracy", "0.9", "--max-ms", "3"), "--min-accuracy and --max-ms do not go together"),
        (("--others", "x", "--max-ms", "3"), "--others and --max-ms do not go together"),
        (("--others", "x", "--picture", "x.png"), "--picture does not belong to --others"),
        (("--max-ms", "3", "--reject-rate", "0.1"), "--reject-rate does not belong to --max-ms"),
        (("--min-accuracy", "90"), "--min-accuracy 90 is not a share"),
        (("--min-accuracy", "nan"), "--min-accuracy nan is not a share"),
        (("--max-ms", "0"), "--max-ms 0 is not a time"),
        (("--max-ms", "3", "--min-fine", "-1"), "--min-fine -1 is not a share"),
    ],
)
def test_options_that_do_not_belong_together(cli: Any, tmp_path: Path, seaside: Path, options: Any, said: str) -> None:
    path = bundle(tmp_path / "x.expert", "nested")
    code, out, err = cli("calibrate", path, "--data", seaside, "-o", tmp_path / "new.expert", *options)
    assert (code, out) == (2, "")
    assert said in err


def test_photos_and_bundles_that_cannot_be_calibrated(cli: Any, tmp_path: Path, seaside: Path) -> None:
    path = bundle(tmp_path / "x.expert", "nested")
    coarse = photos(tmp_path / "coarse", each=1)
    (coarse / "reds").rename(coarse / "warm")
    strange = photos(tmp_path / "strange", each=1)
    (strange / "reds").rename(strange / "tables")
    foreign = tmp_path / "foreign"
    picture(foreign / "tables" / "1.png", "reds")
    (tmp_path / "empty" / "reds").mkdir(parents=True)
    damaged = tmp_path / "damaged"
    (damaged / "reds").mkdir(parents=True)
    (damaged / "reds" / "1.png").write_bytes(b"no photo")
    end = ("--max-ms", 100, "-o", tmp_path / "new.expert")
    for data, said in (
        (coarse, "photos of 'warm' have a category, but no class"),
        (strange, "photos of 'tables', which the model does not know"),
        (foreign, "No photo is of a class of this expert"),
        (tmp_path / "empty", "holds no images"),
        (damaged, "None of the 1 photos can be read"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        code, _, err = cli("calibrate", path, "--data", data, *end)
        assert (code, said in err) == (10, True), err
    assert cli("calibrate", path, "--data", coarse, "--ignore-unknown", *end).code == 0
    shutil.rmtree(tmp_path / "new.expert")
    many = bundle(tmp_path / "many.expert", "nested", 4)
    frozen = tmp_path / "frozen.expert"
    shutil.copytree(path, frozen)
    about = json.loads((frozen / "manifest.json").read_text())
    (frozen / "manifest.json").write_text(json.dumps(about | {"controls": []}))
    code, _, err = cli("calibrate", many, "--data", seaside, *end)
    assert (code, "decides once for 4 photos at a time" in err) == (2, True)
    assert not (tmp_path / "new.expert").exists()


def test_a_picture_needs_matplotlib(cli: Any, tmp_path: Path, seaside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    path = bundle(tmp_path / "x.expert", "nested")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    start = ("calibrate", path, "--data", seaside, "--max-ms", 100, "-o", tmp_path / "new.expert")
    code, _, err = cli(*start, "--picture", tmp_path / "p.png")
    assert code == 2
    assert "pip install 'expertc[report]'" in err
    assert DataError.exit_code == 10
