"""Early exits on the command line: predict, evaluate, bench, and ``calibrate`` with what it leaves in a bundle."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exiting import PLAIN, bundle, by_hand, nested, plain
from jsonschema import Draft202012Validator
from PIL import Image
from rainbow import CLASSES, SPEC, photos, picture, tree

from expertc import Expert, build, manifest
from expertc.bench import bench
from expertc.bench import report as bench_report
from expertc.bundle import open_bundle
from expertc.errors import UsageError
from expertc.evaluate import recording, report
from expertc.evaluate.operating import choose, grid, points
from expertc.evaluate.recording import record
from expertc.intervals import wilson
from expertc.runtime import load_image, open_dataset
from expertc.runtime.preprocess import apply
from expertc.targets import load_target

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
def staged(tmp_path: Path) -> Path:
    return bundle(tmp_path / "exits.expert", "staged")


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
        (("--tolerance", "much"), "--tolerance 'much' is not a number.\nWrite for example --tolerance 0.5.\n"),
        (("--tolerance", ""), "--tolerance '' is not a number.\nWrite for example --tolerance 0.5.\n"),
        (("--exit", "x"), "--exit 'x' is not a whole number.\nWrite for example --exit 1.\n"),
        (("--exit", "1.5"), "--exit '1.5' is not a whole number.\nWrite for example --exit 1.\n"),
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
    told = json.loads(cli("evaluate", exits, "--data", seaside, "--json", "--threshold", "0.2").out)
    Draft202012Validator(json.loads((Path(report.__file__).parent / "schema.json").read_text())).validate(told)
    found = told["answers"]
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


def test_bench_says_which_exit_was_measured(cli: Any, exits: Path, bundle: Path, tmp_path: Path) -> None:
    def said(*options: Any) -> str:
        code, out, err = cli("bench", exits, bundle, "--duration", "0.05", "--report", tmp_path / "r", *options)
        assert (code, err) == (0, "")
        (line,) = (text for text in (tmp_path / "r" / "report.md").read_text().splitlines() if "exits of exits" in text)
        words = " ".join(out.split())
        assert line.removeprefix("- exits of ") in words
        assert line.removeprefix("- exits of ") in (tmp_path / "r" / "report.html").read_text()
        assert f"{bundle.name}: no early exits, runs to its end" in words
        return line.partition(": ")[2]

    def read() -> Any:
        report = json.loads((tmp_path / "r" / "report.json").read_text())
        Draft202012Validator(json.loads((Path(bench_report.__file__).parent / "schema.json").read_text())).validate(
            report
        )
        assert report["models"][1]["exits"] is None
        return report["models"][0]["exits"]

    assert said("--exit", 2) == "exit 2 answers (as asked; tolerance 0.25 nats)"
    assert read() == {"answered": 2, "asked": 2, "thresholds": None, "tolerance": 0.25}
    for seed in (0, 1):
        noise = np.random.default_rng(seed).standard_normal((1, 3, 8, 8), np.float32)
        for limits in ((0.5, 0.4), (0.9, 0.9), (1e-3, 1.0)):
            ((number, *_),) = by_hand(noise, limits, 0.25)
            text = f"exit {number} answers (thresholds {limits[0]:g}, {limits[1]:g} nats; tolerance 0.25 nats)"
            assert said("--seed", seed, "--threshold", ",".join(map(str, limits))) == text
            assert read() == {"answered": number, "asked": None, "thresholds": list(limits), "tolerance": 0.25}


def test_bench_says_of_frozen_exits_that_they_cannot_be_set(cli: Any, tmp_path: Path) -> None:
    full = tmp_path / "full.onnx"
    full.write_bytes(plain())
    frozen = build(full, classes="reds,blues,greens", output=tmp_path / "f", embed={"threshold": 0.3}, exits="nested")
    code, out, err = cli("bench", frozen.path, "--exit", 1)
    assert (code, out, "thresholds of this expert are frozen" in err) == (2, "", True)
    assert "f: exit " in " ".join(cli("bench", frozen.path, "--duration", "0.05").out.split())


def test_compare_does_not_take_another_exit_for_a_regression(cli: Any, exits: Path, tmp_path: Path) -> None:
    for number in (1, 3):
        place = tmp_path / f"r{number}"
        assert cli("bench", exits, "--duration", "0.1", "--exit", number, "--report", place).code == 0
    code, out, err = cli("bench", "compare", tmp_path / "r1", tmp_path / "r3", "--allow-noisy")
    assert (code, out) == (2, "")
    assert "exit 1 answers" in err
    assert "then exit 3 answers" in err


def test_calibrate_for_an_accuracy(
    cli: Any, staged: Path, seaside: Path, tensors: Any, truth: Any, timed: None
) -> None:
    before, new = tree(staged), staged.parent / "new.expert"
    image = staged.parent / "pareto.png"
    code, out, err = cli(
        "calibrate",
        staged,
        "--data",
        seaside,
        "--min-accuracy",
        0.9,
        "--min-fine",
        0.5,
        "--threads",
        1,
        "-o",
        new,
        "--picture",
        image,
    )
    assert (code, err) == (0, "")
    assert tree(staged) == before
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
    told = json.loads((new / "report.json").read_text())["operating_point"]
    mean = sum(c * s for c, s in zip(counts, SECONDS, strict=True)) / 48
    assert told["mean_ms"] == pytest.approx(1e3 * mean)
    assert (told["goal"], told["exit_ms"]) == ({"min_accuracy": 0.9, "min_fine": 0.5}, [1.0, 3.0, 7.0])
    # nothing else of the bundle changes, and the settings are what it does from now on
    assert {name: tree(new)[name] for name in before if name.endswith(("onnx", "txt"))} == {
        name: data for name, data in before.items() if name.endswith(("onnx", "txt"))
    }
    assert [c["default"] for c in about["controls"]] == [thresholds, [tolerance]]
    assert (about["exits"]["thresholds"], about["exits"]["tolerance"]) == (thresholds, tolerance)
    with Expert.open(new, threads=1) as expert:
        assert np.bincount(expert.answered(tensors).exit, minlength=4).tolist() == [0, *counts]
    assert f"{100 * hits / 48:.1f} % of 48 photos" in out
    assert f"{1e3 * mean:.3g} ms on average" in out
    assert max(len(line) for line in out.splitlines() if str(staged.parent) not in line) <= 80
    with Image.open(image) as drawn:
        assert drawn.size[0] > 600
        colours = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    assert (colours == (0xD5, 0x5E, 0x00)).all(axis=1).sum() > 50  # the mark


def test_what_is_recorded_gives_what_the_expert_does(exits: Path, seaside: Path, tensors: Any, truth: Any) -> None:
    """Points of the grid against decisions by hand; no cheaper point on it is good enough."""
    unreadable: list[tuple[str, str]] = []
    with Expert.open(exits, threads=1) as expert:
        images = open_dataset(seaside)
        found = record(expert, images, {name: CLASSES.index(name) for name in CLASSES}, unreadable, seconds=0.05)
    assert all(seconds > 0 for seconds in found.seconds)
    for thresholds, tolerance in (((0.5, 0.4), 0.25), ((0.7, 0.1), -0.1), ((0.0, 0.3), 1.0)):
        (one,) = points(found, [thresholds], tolerance)
        assert (one.hits, one.fine, list(one.exits)) == share(tensors, truth, thresholds, tolerance)
    tried = grid(found)
    best = choose(tried, min_accuracy=0.8)
    assert not [one for one in tried if one.hits >= 0.8 * 48 and one.seconds < best.seconds]


def test_what_cannot_be_reached_is_said(cli: Any, staged: Path, seaside: Path, timed: None) -> None:
    wrong = shutil.copytree(seaside, staged.parent / "wrong")
    before, image = tree(staged.parent), staged.parent / "p.png"
    start = ("calibrate", staged, "--data", seaside, "--threads", 1, "-o", staged.parent / "new.expert")
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
    assert tree(staged.parent) == before
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
        (("--min-accuracy", "abc"), "--min-accuracy 'abc' is not a number.\nWrite for example --min-accuracy 0.9.\n"),
        (("--max-ms", "5ms"), "--max-ms '5ms' is not a number.\nWrite for example --max-ms 5.\n"),
        (("--max-ms", "5", "--min-fine", "-"), "--min-fine '-' is not a number.\nWrite for example --min-fine 0.9.\n"),
        (("--others", "x", "--reject-rate", ""), "--reject-rate '' is not a number.\nWrite"),
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
    end = ("--max-ms", 100, "--threads", 1, "-o", tmp_path / "new.expert")
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
    code, _, err = cli("calibrate", many, "--data", seaside, *end)
    assert (code, "decides once for 4 photos at a time" in err) == (2, True)
    assert not (tmp_path / "new.expert").exists()


def test_calibrate_says_which_photos_counted_nowhere(cli: Any, tmp_path: Path, seaside: Path, timed: None) -> None:
    """And of exits that weigh no two answers no tolerance: these know one category."""
    data, full = shutil.copytree(seaside, tmp_path / "photos"), tmp_path / "full.onnx"
    picture(data / "tables" / "0.png", "reds")
    (data / "unused").mkdir()
    full.write_bytes(plain())
    path = build(full, classes="warm", output=tmp_path / "x", measure_seconds=0, verification="off").path
    asked = ("calibrate", path, "--data", data, "--ignore-unknown", "--max-ms", 100, "--threads", 1, "-o")
    code, out, err = cli(*asked, tmp_path / "a.expert")
    assert (code, err) == (0, "")
    assert "of 24 photos" in out
    assert "left out: 25 photos of 3 other classes" in out
    told = json.loads(cli(*asked, tmp_path / "b.expert", "--json").out)
    assert told["left_out"] == {"blues": 12, "greens": 12, "tables": 1}
    assert told["accuracy"]["images"] == 24
    assert f"thresholds  {', '.join(f'{value:g}' for value in told['thresholds'])} nats\n" in out
    assert "tolerance" not in out
    mixed = cli("calibrate", bundle(tmp_path / "y", "nested"), *asked[2:], tmp_path / "c.expert").out
    assert "left out: 1 photos of 1 other classes" in mixed
    assert "nats; tolerance " in mixed


def test_a_picture_needs_matplotlib(cli: Any, tmp_path: Path, seaside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle(tmp_path / "x.expert", "nested")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    start = ("calibrate", path, "--data", seaside, "--max-ms", 100, "--threads", 1, "-o", tmp_path / "new.expert")
    code, _, err = cli(*start, "--picture", tmp_path / "p.png")
    assert code == 2
    assert "pip install 'expertc[report]'" in err


def test_compile_lists_a_plan_for_every_stage(cli: Any, jetson: Any, tmp_path: Path) -> None:
    target = load_target("orin-nano-8gb")
    path = bundle(tmp_path / "x.expert", "staged", device=target.to_mapping(), target=target.name)
    code, out, err = cli("compile", path)
    assert (code, err) == (0, "")
    assert out.count("compiled in 7 s") == out.count("kept:   ") == 3
    assert out.count("A note.") == 1
    found = json.loads(cli("compile", path, "--json").out)
    assert [one["fresh"] for one in (found, *found["later"])] == [False] * 3
    assert len({one["plan"] for one in (found, *found["later"])}) == 3
    for option in ("--cold", "--phases"):
        assert "the exits as they are" in cli("bench", path, option, "--exit", 1).err
    with pytest.raises(UsageError, match="stages"):
        bench([bundle(tmp_path / "here.expert", "staged")], cold=True)


@pytest.mark.parametrize("form", ["nested", "staged"])
def test_a_built_bundle_is_calibrated_verified_and_shown(
    cli: Any, tmp_path: Path, seaside: Path, tensors: Any, form: str, timed: None
) -> None:
    """From the plain model on, and again after its release: the settings are the bundle's, the model is the same."""
    full, new = tmp_path / "full.onnx", tmp_path / "new.expert"
    full.write_bytes(plain())
    how: dict[str, Any] = {"exits": form, "measure_seconds": 0, "verification": "off"}
    path = build(full, classes="warm,cold", output=tmp_path / "x.expert", **how).path
    with Expert.open(path, threads=1) as expert:
        wanted = by_hand(tensors, PLAIN.thresholds, PLAIN.tolerance)
        assert expert.answered(tensors).exit.tolist() == [number for number, *_ in wanted]
    assert "threshold 0.5, 0.4; tolerance 0.25 nats" in cli("inspect", path).out
    asked = ("--data", seaside, "--max-ms", 2, "--min-fine", 0.6, "--threads", 1)
    assert cli("calibrate", path, *asked, "-o", new).code == 0
    assert cli("verify", new, "--against", full, "--level", "fast").code == 0
    about = manifest.read(open_bundle(new))
    point = about["operating_point"]
    limits = ", ".join(f"{value:g}" for value in point["thresholds"])
    said = f"{100 * point['accuracy']['share']:.1f} % right, {100 * point['fine']['share']:.1f} % name a class"
    shown = cli("inspect", new).out
    assert f"threshold {limits}; tolerance {point['tolerance']:g} nats" in shown
    assert f"chosen on 48 photos: {said}" in " ".join(shown.split())
    assert limits in cli("diff", path, new).out
    (new / "manifest.json").write_text(json.dumps(about | {"operating_point": {"accuracy": {"images": "many"}}}))
    code, _, err = cli("inspect", new)
    assert (code, "'operating_point' makes no sense" in err) == (3, True)
    frozen = build(
        full, classes="reds,blues,greens", output=tmp_path / "f.expert", embed={"threshold": 0.3}, **how
    ).path
    photo = seaside / "reds" / "0.png"
    for verb in (("predict", frozen, photo, "--exit", 1), ("calibrate", frozen, *asked, "-o", tmp_path / "n.expert")):
        code, out, err = cli(*verb)
        assert (code, out, "thresholds of this expert are frozen" in err) == (2, "", True)
    assert json.loads(cli("predict", frozen, photo, "--json").out)[0]["exit"] in (1, 2, 3)
