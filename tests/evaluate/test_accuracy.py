from __future__ import annotations

import json
import math

import numpy as np
import pytest
from colours import LABELS, NAN, SPEC, pictures, seen

from expertc.errors import DataError
from expertc.evaluate import Evaluation, evaluate
from expertc.evaluate.accuracy import ClassResult, decisions
from expertc.intervals import wilson


def test_figures_counted_by_hand() -> None:
    images = pictures(
        ("red", "red"), ("red", "red"), ("red", "blue"), ("green", "lime"), ("green", "red"), ("red", "red")
    )  # fmt: skip
    found = evaluate(seen, SPEC, LABELS, images)
    assert (found.images, found.hits, found.accuracy) == (6, 4, 4 / 6)
    assert found.confusion.tolist() == [[3, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert found.confusion.dtype == np.int64
    assert found.per_class == (ClassResult("red", 4, 3), ClassResult("green", 2, 1), ClassResult("blue", 0, 0))
    assert [r.accuracy for r in found.per_class] == [0.75, 0.5, None]
    assert found.interval == wilson(4, 6)
    assert [r.interval for r in found.per_class] == [wilson(3, 4), wilson(1, 2), (0, 1)]
    assert found.absent == ("blue",)
    assert found.unreadable == found.undecided == ()
    assert found.left_out == {}


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_what_is_left_out_and_what_cannot_be_read(batch: int) -> None:
    images = pictures(
        ("fish", "red"), ("red", None), ("red", "red"), ("fish", None), ("green", "red"), ("crab", "red"),
        classes=("crab", "fish", "green", "red"),
    )  # fmt: skip
    found = evaluate(seen, SPEC, LABELS, images, batch=batch)
    assert (found.images, found.hits) == (2, 1)
    assert found.left_out == {"fish": 2, "crab": 1}
    assert found.names == ("2.png", "4.png")
    assert [name for name, _ in found.unreadable] == ["1.png"]
    assert "1.png" in found.unreadable[0][1]
    assert found.absent == ("blue",)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_a_score_that_is_no_number_is_a_miss() -> None:
    found = evaluate(seen, SPEC, LABELS, pictures(("red", NAN), ("red", "red"), ("green", NAN)))
    assert (found.images, found.hits) == (3, 1)
    assert found.undecided == ("0.png", "2.png")
    assert [(r.images, r.hits) for r in found.per_class] == [(2, 1), (1, 0), (0, 0)]
    assert found.confusion.sum() == 1


def test_classes_are_matched_by_name_not_by_position() -> None:
    images = pictures(("Blue", "blue"), ("red", "red"), classes=("Blue", "red"))
    assert evaluate(seen, SPEC, LABELS, images).accuracy == 1
    other = evaluate(seen, SPEC, LABELS, images, match={"Blue": 0, "red": 0})
    assert (other.images, other.hits) == (2, 1)


def test_batches_and_progress() -> None:
    images = pictures(*[("red", "red")] * 5, ("red", None), ("fish", "red"), classes=(*LABELS, "fish"))
    sizes: list[int] = []
    steps: list[tuple[int, int]] = []

    def scores(x: np.ndarray) -> np.ndarray:
        assert x.shape[1:] == (3, 1, 1)
        sizes.append(len(x))
        return seen(x)

    found = evaluate(scores, SPEC, LABELS, images, batch=2, progress=lambda done, of: steps.append((done, of)))
    assert found.images == 5
    assert sizes == [2, 2, 1]
    assert steps == [(2, 6), (4, 6), (6, 6)]


def test_nothing_to_judge() -> None:
    with pytest.raises(DataError, match=r"knows .the data set has cats, dogs"):
        evaluate(seen, SPEC, LABELS, pictures(("cats", "red"), classes=("cats", "dogs")))
    with pytest.raises(DataError, match="None of the 2 images"):
        evaluate(seen, SPEC, LABELS, pictures(("red", None), ("blue", None)))
    with pytest.raises(DataError, match="knows"):  # a known class, but without images
        evaluate(seen, SPEC, LABELS, pictures(("cats", "red"), classes=("cats", "red")))
    with pytest.raises(DataError, match="knows"):
        evaluate(seen, SPEC, LABELS, pictures(("red", "red")), match={})


def test_json_is_complete_and_plain() -> None:
    images = pictures(("red", "red"), ("red", NAN), ("green", None), ("green", "blue"), ("fish", "red"),
                      classes=(*LABELS, "fish"))  # fmt: skip
    data = json.loads(json.dumps(evaluate(seen, SPEC, LABELS, images).to_mapping(), allow_nan=False))
    assert (data["images"], data["hits"], data["accuracy"]) == (3, 1, pytest.approx(1 / 3))
    assert data["interval"] == pytest.approx(list(wilson(1, 3)))
    assert data["classes"][0] == {"label": "red", "images": 2, "hits": 1, "accuracy": 0.5,
                                  "interval": pytest.approx(list(wilson(1, 2)))}  # fmt: skip
    assert data["classes"][2]["accuracy"] is None
    assert data["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert (data["absent"], data["left_out"], data["undecided"]) == (["blue"], {"fish": 1}, ["1.png"])
    assert [entry["image"] for entry in data["unreadable"]] == ["2.png"]


def test_decisions() -> None:
    scores = np.array([[0, 2, 1], [3, 3, 0], [np.nan, 9, 0], [-np.inf, -1, -2], [0, np.inf, 0]], np.float32)
    assert decisions(scores).tolist() == [1, 0, -1, 1, 1]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3, as all below
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(hits: int, total: int, low: float, high: float) -> None:
    assert ClassResult("x", total, hits).interval == pytest.approx((low, high), abs=5e-5)


def test_the_interval_solves_the_score_equation() -> None:
    """Wilson's ends are where the observed share is 1.96 standard errors of the end away."""
    for end in ClassResult("x", 50, 37).interval:
        assert abs(37 / 50 - end) / math.sqrt(end * (1 - end) / 50) == pytest.approx(1.959964, abs=1e-5)


def test_figures_come_from_the_decisions() -> None:
    made = Evaluation(LABELS, ("a", "b"), np.array([0, 2]), np.array([0, 1]), (), {})
    assert (made.hits, made.images) == (1, 2)
    assert made.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
