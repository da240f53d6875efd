from __future__ import annotations

import json
import math

import numpy as np
import pytest
from colours import LABELS, NAN, SPEC, pictures, seen

from expertc.errors import DataError
from expertc.evaluate import agreement, compare, match_classes


def test_agreement_counted_by_hand() -> None:
    a = np.array([[1.0, 2, 0], [5, 1, 1], [0, 0, 1], [1, 1, 0]])
    b = np.array([[1.0, 2.5, 0], [5, 6, 1], [0, 0, 1], [1, 1, 0]])
    found = agreement(["p", "q", "r", "s"], a, b)
    assert (found.images, found.agreed) == (4, 3)
    assert found.disagreeing == (("q", 0, 1),)
    assert found.max_abs_difference == 5


def test_scores_that_are_no_numbers_agree_with_nothing() -> None:
    a = np.array([[np.nan, 1], [0, 1]], np.float32)
    found = agreement(["p", "q"], a, a)
    assert found.disagreeing == (("p", -1, -1),)
    assert math.isnan(found.max_abs_difference)
    data = json.loads(json.dumps(found.to_mapping(), allow_nan=False))
    assert (data["agreed"], data["max_abs_difference"]) == (1, None)


def test_half_and_single_precision_are_compared_exactly() -> None:
    found = agreement(["p"], np.array([[1000, 0]], np.float16), np.array([[1000.125, 0]], np.float32))
    assert found.max_abs_difference == 0.125


@pytest.mark.parametrize(("names", "a", "b"), [(2, (2, 3), (2, 2)), (2, (2, 3), (3, 3)), (1, (2, 3), (2, 3))])
def test_what_does_not_belong_together(names: int, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="belong together"):
        agreement(["x"] * names, np.zeros(a), np.zeros(b))


IMAGES = pictures(("red", "red"), ("green", "lime"), ("red", None), ("red", "#800000"), ("fish", "yellow"),
                  classes=(*LABELS, "fish"))  # fmt: skip


def test_two_models_on_the_same_images() -> None:
    """The second takes dark red for green, and cannot tell yellow (equal scores, the first class)."""

    def confused(x: np.ndarray) -> np.ndarray:
        scores = seen(x)
        scores[scores[:, 0] < 0.9, 1] += 0.75
        return scores

    steps: list[tuple[int, int]] = []
    found = compare(seen, confused, SPEC, IMAGES, batch=2, progress=lambda done, of: steps.append((done, of)))
    assert (found.images, found.agreed) == (4, 3)
    assert found.disagreeing == (("3.png", 0, 1),)
    assert found.max_abs_difference == pytest.approx(0.75)
    assert [name for name, _ in found.unreadable] == ["2.png"]
    assert steps == [(2, 5), (4, 5), (5, 5)]


def test_only_images_of_known_classes() -> None:
    found = compare(seen, seen, SPEC, IMAGES, only=match_classes(IMAGES.classes, LABELS))
    assert (found.images, found.agreed, found.max_abs_difference) == (3, 3, 0)


def test_a_full_model_restricted_to_a_selection() -> None:
    rows = (2, 0)
    found = compare(lambda x: seen(x)[:, rows], lambda x: seen(x)[:, [2, 0]], SPEC, IMAGES)
    assert found.agreed == found.images == 4


def test_nothing_to_compare() -> None:
    with pytest.raises(DataError, match="None of the 1 images"):
        compare(seen, seen, SPEC, pictures(("red", None)))
    with pytest.raises(DataError, match="None of the 0 images"):
        compare(seen, seen, SPEC, IMAGES, only={})


def test_nan_from_one_model_only() -> None:
    found = compare(seen, lambda x: x.mean(axis=(2, 3)), SPEC, pictures(("red", NAN)))
    assert found.disagreeing == (("0.png", -1, 0),)
