"""Two reports compared: what is a regression, what is noise, and what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import WATCHED, made, saved

from expertc.bench import Accuracy, compare
from expertc.bench.camera import Stream
from expertc.bench.compare import FASTER, SLOWER, TOLERANCE, UNCHANGED
from expertc.bench.exits import Exiting
from expertc.bench.watch import Throttle
from expertc.errors import ExpertcError, InvalidArtifactError, UsageError


def verdicts(tmp_path: Path, old: Any, new: Any, **options: Any) -> dict[str, str]:
    found = compare(saved(old, tmp_path / "old.json"), saved(new, tmp_path / "new.json"), **options)
    return {change.name: change.verdict for change in found.changes}


def test_each_model_is_compared_with_itself(tmp_path: Path) -> None:
    old = made({"a": 0.002, "b": 0.004, "c": 0.001, "gone": 1.0})
    new = made({"b": 0.0044, "a": 0.002, "c": 0.0008, "come": 1.0}, seed=1, blocks=150, runtime="onnxruntime 2")
    found = compare(saved(old, tmp_path / "old.json"), saved(new, tmp_path / "new.json"))
    assert {one.name: one.verdict for one in found.changes} == {"a": UNCHANGED, "b": SLOWER, "c": FASTER}
    (slower,) = found.regressions
    assert slower.low < 1.1 < slower.high
    assert slower.ratio == pytest.approx(1.1, rel=0.01)
    assert slower.old == pytest.approx(0.004, rel=0.01)
    notes = " ".join(found.notes)
    for words in ("runtime: 'onnxruntime 1.20.0', then 'onnxruntime 2'", "old report: 'gone'", "new report: 'come'"):
        assert words in notes
    assert json.loads(json.dumps(found.to_mapping()))["regression"] is True


def test_the_tolerance_is_what_two_steady_runs_may_differ_by(tmp_path: Path) -> None:
    assert TOLERANCE == 0.05
    old, new = made({"a": 0.002}, noise=0.01), made({"a": 0.00207}, seed=1, noise=0.01)
    assert verdicts(tmp_path, old, new) == {"a": UNCHANGED}
    assert verdicts(tmp_path, old, new, tolerance=0.02) == {"a": SLOWER}
    assert verdicts(tmp_path, new, old, tolerance=0.02) == {"a": FASTER}


def test_noise_alone_is_no_regression(tmp_path: Path) -> None:
    """Seven blocks of wild noise: the medians may differ by a lot, their interval holds 1."""
    runs = [made({"a": 0.002}, blocks=7, noise=0.4, seed=seed) for seed in range(40)]
    pairs = zip(runs[::2], runs[1::2], strict=True)
    found = [verdicts(tmp_path, old, new, allow_noisy=True)["a"] for old, new in pairs]
    assert found.count(UNCHANGED) >= 16


def test_a_folder_is_its_report(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    saved(made({"a": 0.002}), tmp_path / "run" / "report.json")
    found = compare(tmp_path / "run", tmp_path / "run" / "report.json")
    assert found.changes[0].ratio == 1
    assert found.notes == ("'a' is the same file in both: it is not the model that changed",)


def test_what_makes_a_run_doubtful_is_said(tmp_path: Path) -> None:
    old, new = made({"a": 0.002}), made({"a": 0.002}, complete=False)
    old = replace(old, warnings=("The machine\x1b[31m was busy.",))
    found = compare(saved(old, tmp_path / "old.json"), saved(new, tmp_path / "new.json"))
    assert "the new run was interrupted" in found.notes
    assert "the old run: The machine[31m was busy." in found.notes


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (made({"a": 0.002}, cpu="Another CPU"), "cpu was 'A CPU', then 'Another CPU'"),
        (made({"a": 0.002}, threads=1), "threads was '2', then '1'"),
        (made({"a": 0.002}, governor="powersave"), "governor"),
        (made({"a": 0.002}, threads_wait="blocking"), "threads_wait was 'spinning', then 'blocking'"),
        (made({"a": 0.002}, batch=4), r"the input of 'a' was \(1, 3, 8, 8\), then \(4, 3, 8, 8\)"),
        (made({"b": 0.002}), "no model in common"),
        (made({"a": 0.002}, evidence=replace(WATCHED, power_mode="15W")), "power mode was 'None', then '15W'"),
        (made({"a": 0.002}, evidence=replace(WATCHED, locked=("x\x1b[2J",))), r"clocks was 'not locked', then 'x\[2J'"),
        (made({"a": 0.002}, blocks=5), "5 blocks only; an interval needs 6"),
    ],
)
def test_different_tasks_are_refused(tmp_path: Path, other: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        verdicts(tmp_path, made({"a": 0.002}), other)
    assert caught.value.hint


def test_other_exits_are_another_task(tmp_path: Path) -> None:
    """However the times compare; a network that runs to its end may become one with exits."""

    def left(exits: Exiting | None, seconds: float = 0.002) -> Any:
        report = made({"a": seconds})
        return replace(report, entries=tuple(replace(entry, exits=exits) for entry in report.entries))

    first, third = Exiting(1, asked=1, tolerance=0.5), Exiting(3, asked=3, tolerance=0.5)
    words = r"of 'a', exit 1 answers \(as asked; tolerance 0.5 nats\), then exit 3 answers \(as asked; "
    with pytest.raises(UsageError, match=words) as caught:
        verdicts(tmp_path, left(first), left(third, 0.02), allow_noisy=True)
    assert "the same --exit" in caught.value.hint
    decided = Exiting(2, thresholds=(0.5, 0.4))
    others = [replace(decided, **{key: value}) for key, value in (("answered", 3), ("thresholds", (0.5, 0.3)))]
    for other in (*others, replace(decided, tolerance=0.1), Exiting(2), Exiting(2, asked=2)):
        with pytest.raises(UsageError, match="exit 2 answers"):
            verdicts(tmp_path, left(decided), left(other))
    assert verdicts(tmp_path, left(decided), left(replace(decided), 0.02)) == {"a": SLOWER}
    assert verdicts(tmp_path, left(None), left(decided)) == {"a": UNCHANGED}


def test_another_scenario_is_refused(tmp_path: Path) -> None:
    report = made({"a": 0.002})
    other = report.to_mapping() | {"scenario": "offline\x1b[31m"}
    (tmp_path / "new.json").write_text(json.dumps(other))
    with pytest.raises(UsageError, match=r"'single-stream', the other 'offline\[31m'"):
        compare(saved(report, tmp_path / "old.json"), tmp_path / "new.json")


def test_what_was_timed_is_part_of_the_task(tmp_path: Path) -> None:
    report = made({"a": 0.002})
    for changed, words in (
        ({"timed": "with transfers"}, r"timed was 'one call of .*', then 'with transfers'"),
        ({"streams": {"a": stream(30.0).to_mapping()}}, "frames per second was 'None', then '30'"),
    ):
        (tmp_path / "new.json").write_text(json.dumps(report.to_mapping() | changed))
        with pytest.raises(UsageError, match=words):
            compare(saved(report, tmp_path / "old.json"), tmp_path / "new.json")


def stream(rate: float = 25.0, age: float = 0.01, late: int = 0, seed: int = 0) -> Stream:
    """Forty slices of 25 frames, ``late`` of each."""
    ages = np.random.default_rng(seed).lognormal(np.log(age), 0.02, (40, 25))
    return Stream.joined([Stream(rate, 25, late, tuple(each), tuple(each)) for each in ages.tolist()])


def camera(*names: str, **options: Any) -> Any:
    report = made(dict.fromkeys(names or ("a",), 0.005))
    streams = {entry.name: stream(**options) for entry in report.entries}
    return replace(report, scenario="camera", streams=streams)


def test_a_camera_is_judged_by_ages_and_missed_frames(tmp_path: Path) -> None:
    """The calls are as quick as before in all of these."""
    before = camera(late=1)
    assert verdicts(tmp_path, before, camera(late=1, seed=1)) == {"a": UNCHANGED}
    assert verdicts(tmp_path, before, camera(late=1, age=0.012)) == {"a": SLOWER}
    assert verdicts(tmp_path, before, camera(late=3)) == {"a": SLOWER}
    assert verdicts(tmp_path, before, camera(late=3), tolerance=0.1) == {"a": UNCHANGED}
    assert verdicts(tmp_path, camera(late=3), before) == {"a": FASTER}
    found = compare(saved(before, tmp_path / "old.json"), saved(camera("a", "b", late=3), tmp_path / "new.json"))
    (change,) = found.changes
    assert change.missed is not None
    assert (change.missed.old, change.missed.new) == (pytest.approx(0.04), pytest.approx(0.12))
    assert change.old == pytest.approx(0.01, rel=0.02)
    assert found.to_mapping()["models"][0]["missed"]["rise"] == pytest.approx(0.08)
    with pytest.raises(UsageError, match="frames per second was '25', then '30'"):
        verdicts(tmp_path, before, camera(rate=30.0))


def test_batches_that_were_chosen_apart_are_refused_with_what_to_do(tmp_path: Path) -> None:
    old, new = (replace(made({"a": 0.002}, batch=batch), scenario="offline") for batch in (8, 16))
    with pytest.raises(UsageError, match=r"was \(8, 3, 8, 8\), then \(16, 3, 8, 8\)") as caught:
        verdicts(tmp_path, old, new)
    assert "--batch-size 8" in caught.value.hint


def test_other_classes_are_another_task(tmp_path: Path) -> None:
    def of(*classes: str) -> Any:
        report = made({"a": 0.002})
        return replace(report, entries=(replace(report.entries[0], classes=classes or None),))

    assert verdicts(tmp_path, of("rays", "sharks"), of("sharks", "rays")) == {"a": UNCHANGED}
    assert verdicts(tmp_path, of("rays"), of()) == {"a": UNCHANGED}
    with pytest.raises(UsageError, match="'a' had 2 classes, then 3; 'clams' is in one of them only"):
        verdicts(tmp_path, of("rays", "sharks"), of("rays", "sharks", "clams"))


def test_accuracies_on_other_classes_are_another_task(tmp_path: Path) -> None:
    """A model of the same name may have been built for other classes; where nobody measured, nobody knows."""
    of_two, of_three = (made({"a": 0.002}, accuracies=(Accuracy(0.9, 0.8, 1.0, 50, n),)) for n in (2, 3))
    assert verdicts(tmp_path, of_two, of_two) == verdicts(tmp_path, of_two, made({"a": 0.002})) == {"a": UNCHANGED}
    with pytest.raises(UsageError, match="that on 50 photos of 2 classes, then on 50 photos of 3 classes"):
        verdicts(tmp_path, of_two, of_three)


@pytest.mark.parametrize(
    ("doubtful", "words"),
    [
        (made({"a": 0.002}, noise=0.1), "is noisy: The times of a vary by"),
        (
            made({"a": 0.002}, evidence=replace(WATCHED, throttles=(Throttle("too\x1b[2J hot", 3, None),))),
            r"is throttled: Clocks were held back: too\[2J hot",
        ),
        (
            made({"a": 0.002}, evidence=replace(WATCHED, died="a sensor does not answer")),
            "is unknown: The watch failed",
        ),
    ],
)
def test_doubtful_runs_are_compared_on_request_only(tmp_path: Path, doubtful: Any, words: str) -> None:
    good = made({"a": 0.002})
    for pair, when in (((good, doubtful), "new"), ((doubtful, good), "old")):
        with pytest.raises(UsageError, match=f"The {when} run {words}") as caught:
            verdicts(tmp_path, *pair)
        assert "--allow-noisy" in caught.value.hint
        files = [saved(report, tmp_path / name) for report, name in zip(pair, ("old.json", "new.json"), strict=True)]
        found = compare(*files, allow_noisy=True)
        assert any(note.startswith(f"the {when} run: ") for note in found.notes)
        assert dict(zip(("old", "new"), found.verdicts, strict=True))[when] == doubtful.verdict.name != "clean"


def test_a_machine_without_a_sensor_is_not_refused(tmp_path: Path) -> None:
    """Most virtual machines have none: nobody knows of anything wrong, and that is said."""
    blind = made({"a": 0.002}, evidence=replace(WATCHED, tells_throttling=False))
    found = compare(saved(blind, tmp_path / "old.json"), saved(blind, tmp_path / "new.json"))
    assert found.to_mapping()["verdicts"] == {"old": "unknown", "new": "unknown"}
    assert "the old run: No sensor of this machine tells whether clocks are held back." in found.notes


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_is_a_share(tmp_path: Path, tolerance: float) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        verdicts(tmp_path, made({"a": 0.002}), made({"a": 0.002}), tolerance=tolerance)


def spoilt(**changes: Any) -> str:
    report = made({"a": 0.002}, blocks=8, turn=1).to_mapping()
    report["models"][0] |= changes
    return json.dumps(report)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "{}", '{"format": 2}', '{"format": "expertc.bench/4"}', '{"format": "expertc.bench/1"}',
        '{"format": "expertc.bench/4", "models": {}}',
        spoilt(durations_ns=[]), spoilt(durations_ns=[1, 0]), spoilt(durations_ns=[1, True]),
        spoilt(durations_ns=[1.5]), spoilt(durations_ns=["1"]), spoilt(durations_ns=None),
        spoilt(durations_ns=[10**400]), spoilt(calls_per_turn=3),
        spoilt(calls_per_turn=0), spoilt(shape=[-1]), spoilt(name=7), spoilt(durations_ns={"a": 1}),
        spoilt(name=None), json.dumps(made({"a": 0.1}).to_mapping() | {"warnings": [5]}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"environment": 5}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"models": [None]}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"evidence": None}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"streams": {"a": 30}}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"evidence": {"locked": [5]}}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"verdict": {"name": "fine", "reasons": []}}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"verdict": {"name": [], "reasons": []}}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"verdict": {"name": "clean", "reasons": [1]}}),
        spoilt(classes=5), spoilt(classes=[5]), spoilt(exits=1), spoilt(exits={"answered": 1}),
        *(spoilt(exits=Exiting(1).to_mapping() | {key: value}) for key, value in (
            ("answered", None), ("answered", 0), ("answered", True), ("asked", 10**400), ("asked", 0),
            ("thresholds", 0.5), ("thresholds", ["x"]), ("thresholds", [10**400]), ("tolerance", False))),
        json.dumps(made({"a": 0.1}).to_mapping() | {"streams": {"a": {"rate": 1.0}}}),
        json.dumps(made({"a": 0.1}).to_mapping() | {
            "streams": {"a": {"rate": 1.0, "slices": {"age": [0.1] * 9, "missed": [2.0] * 9}}}}),
        json.dumps(made({"a": 0.1}).to_mapping() | {
            "streams": {"a": {"rate": 1.0, "slices": {"age": [0.1] * 9, "missed": [0.0] * 8}}}}),
        json.dumps(made({"a": 0.1}).to_mapping() | {
            "streams": {"a": {"rate": 1.0, "slices": {"age": [-0.1] * 9, "missed": [0.0] * 9}}}}),
        spoilt(accuracy={}), spoilt(accuracy={"images": "x", "classes": 1}),
        json.dumps(made({"a": 0.1}).to_mapping() | {"models": made({"a": 0.1}).to_mapping()["models"] * 2}),
    ],
)  # fmt: skip
def test_what_is_no_report(tmp_path: Path, text: str) -> None:
    good = saved(made({"a": 0.002}), tmp_path / "good.json")
    (tmp_path / "bad.json").write_text(text)
    for pair in ((good, tmp_path / "bad.json"), (tmp_path / "bad.json", good)):
        with pytest.raises(InvalidArtifactError) as caught:
            compare(*pair)
        assert caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ExpertcError, match="cannot be read"):
        compare(tmp_path / "nowhere.json", tmp_path)
