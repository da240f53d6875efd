"""Accuracies put beside latencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import made

from expertc.bench import read_accuracies, with_accuracies
from expertc.errors import DataError, UsageError
from expertc.intervals import wilson

PATHS = ("models/full.onnx", "rays.expert", "b/rays.expert")


def evaluation(path: Path, hits: int = 9, images: int = 10, **more: Any) -> str:
    """A file like those of ``expertc evaluate --json``."""
    classes = [
        {"label": "rays", "images": images - 4},
        {"label": "sharks", "images": 4},
        {"label": "eels", "images": 0},
    ]
    path.write_text(json.dumps({"images": images, "hits": hits, "classes": classes} | more))
    return str(path)


def test_models_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    by_name = evaluation(tmp_path / "a=1.json", model="elsewhere/full.onnx")
    by_path = evaluation(tmp_path / "b.json", 7, model="b/rays.expert")
    told = evaluation(tmp_path / "c.json", 8, model="something else")
    found = read_accuracies([by_name, by_path, f"rays.expert={told}"], PATHS)
    assert {place: one.top1 for place, one in found.items()} == {0: 0.9, 2: 0.7, 1: 0.8}
    assert (found[0].low, found[0].high) == wilson(9, 10)
    assert (found[0].images, found[0].classes) == (10, 2)
    report = with_accuracies(made({"a": 1, "b": 2, "c": 3}), {0: found[0]})
    assert [entry.accuracy for entry in report.entries] == [found[0], None, None]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "does not say which model"),
        ({"model": "third.onnx"}, "none of the models is called so"),
        ({"model": "c/rays.expert"}, "two of the models are called so"),
        ({"model": "\x1b]0;x"}, "about ']0;x'"),
    ],
)
def test_a_model_that_is_not_there(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_accuracies([evaluation(tmp_path / "a.json", **more)], PATHS)


def test_two_accuracies_for_one_model(tmp_path: Path) -> None:
    file = evaluation(tmp_path / "a.json", model="full.onnx")
    with pytest.raises(UsageError, match="two accuracies"):
        read_accuracies([file, file], PATHS)


def test_accuracies_of_different_tasks_are_refused(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a.json", model="full.onnx")
    other = evaluation(tmp_path / "b.json", images=12, model="b/rays.expert")
    with pytest.raises(DataError, match=r"different tasks \(10 photos of 2 classes, 12 photos of 2 classes"):
        read_accuracies([one, other], PATHS)


@pytest.mark.parametrize(
    "changes",
    [
        {"hits": 11}, {"hits": -1}, {"hits": True}, {"images": 0, "hits": 0}, {"images": 10**400}, {"classes": None},
        {"classes": [1]}, {"classes": [{}]}, {"hits": "9"}, {"classes": [{"label": "a", "images": "x"}]},
    ],
)  # fmt: skip
def test_what_is_no_evaluation(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = evaluation(tmp_path / "a.json", **({"model": "full.onnx"} | changes))
    with pytest.raises(DataError, match="is not an evaluation"):
        read_accuracies([file], PATHS)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_accuracies(["full.onnx=nowhere.json"], PATHS)
