"""Probabilities against outcomes, by their definitions written out."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from colours import LABELS, NAN, SPEC, pictures, seen
from hypothesis import given
from hypothesis import strategies as st

from expertc.errors import DataError
from expertc.evaluate import Evaluation, evaluate
from expertc.evaluate.confidence import calibration_error, coverages, covered, ranks, reliability
from expertc.intervals import wilson

judged = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def by_definition(confidence: list[float], right: list[bool]) -> float:
    """Guo et al. 2017, equation 3, with exact bins ((m - 1) / 15, m / 15]; 0 belongs to the first."""
    total = 0.0
    for m in range(1, 16):
        low, high = Fraction(m - 1, 15), Fraction(m, 15)
        inside = [i for i, p in enumerate(confidence) if low < Fraction(p) <= high or (m == 1 and p == 0)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = math.fsum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@given(judged)
def test_calibration_error_is_the_published_formula(found: list[tuple[float, bool]]) -> None:
    # a probability that rounding puts on an edge may fall to either side of it: kept off the edges
    found = [(p, r) for p, r in found if abs(p * 15 - round(p * 15)) > 1e-9 or p in (0, 1)] or [(0.5, True)]
    confidence, right = [p for p, _ in found], [r for _, r in found]
    assert calibration_error(np.array(confidence), np.array(right)) == pytest.approx(
        by_definition(confidence, right), abs=1e-12
    )


def test_calibration_by_hand() -> None:
    right = np.array([True, True, True, False])
    assert calibration_error(np.full(4, 0.75), right) == 0
    assert calibration_error(np.ones(4), right) == 0.25
    assert calibration_error(np.array([1.0, 1.0, 0.5, 0.5]), right) == 0  # half of those at 0.5 are right
    assert calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, False, False])) == pytest.approx(
        0.5 * 0.1 + 0.5 * 0.6
    )


@given(st.integers(0, 2**32 - 1))
def test_ranks_are_positions_in_a_stable_sort(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 4, (5, 7)).astype(np.float32)  # with many equal ones
    truth = draw.integers(0, 7, 5)
    expected = [sorted(range(7), key=lambda c: -row[c]).index(t) for row, t in zip(scores, truth, strict=True)]
    assert ranks(scores, truth).tolist() == expected
    scores[2, 3] = np.nan
    assert ranks(scores, truth)[2] == 7


@given(judged, st.floats(0, 1))
def test_coverage_counts(found: list[tuple[float, bool]], reject: float) -> None:
    kept = [right for p, right in found if p >= reject]
    made = covered(np.array([p for p, _ in found]), np.array([r for _, r in found]), reject)
    assert (made.images, made.covered, made.hits) == (len(found), len(kept), sum(kept))
    data = made.to_mapping()
    assert data["coverage"] == len(kept) / len(found)
    assert data["accuracy"] == (sum(kept) / len(kept) if kept else None)
    assert data["interval"] == list(wilson(sum(kept), len(kept)))


@given(judged)
def test_the_bins_are_those_of_the_error(found: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([p for p, _ in found]), np.array([r for _, r in found])
    bins = reliability(confidence, right)
    assert (sum(one.images for one in bins), sum(one.hits for one in bins)) == (len(found), sum(right))
    gaps = [abs(one.hits - one.images * one.confidence) for one in bins if one.confidence is not None]
    assert sum(gaps) / len(found) == pytest.approx(calibration_error(confidence, right), abs=1e-12)
    inside = [one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in bins if one.confidence is not None]
    assert all(inside)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.7, 0.9, math.nan, math.inf]), st.booleans()), min_size=1))
def test_every_threshold_of_the_curve_covers_what_it_says(found: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([p for p, _ in found]), np.array([r for _, r in found])
    known = np.isfinite(confidence)
    curve = coverages(confidence, right)
    assert [one.reject for one in curve] == sorted({*confidence[known].tolist()}, reverse=True)
    for one in curve:
        kept = right[known & (confidence >= one.reject)]
        assert (one.images, one.covered, one.hits) == (len(found), len(kept), kept.sum())


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    confidence = np.random.default_rng(0).random(5000)
    curve = coverages(confidence, confidence > 0.5, most=50)
    assert len(curve) == 50
    assert (curve[0].covered, curve[-1].covered) == (1, 5000)
    assert curve[-1].reject == confidence.min()


def test_of_an_evaluation() -> None:
    """Probabilities of a softmax over red, green, blue by hand: e / (e + 2) for a plain colour."""
    images = pictures(("red", "red"), ("red", "blue"), ("red", NAN), ("green", "lime"))
    found = evaluate(seen, SPEC, LABELS, images)
    sure = math.e / (math.e + 2)
    assert found.confidence is not None
    assert found.confidence == pytest.approx([sure, sure, math.nan, sure], nan_ok=True)
    assert found.calibration_error == pytest.approx(abs(2 / 3 - sure))  # without the one that has no number
    assert (found.covered(0.5).covered, found.covered(0.5).images, found.covered(0.6).covered) == (3, 4, 0)
    assert found.top5 is None  # three classes
    as_they_are = evaluate(seen, SPEC, LABELS, images, kind="probabilities")
    assert as_they_are.confidence == pytest.approx([1, 1, math.nan, 1], nan_ok=True)


def test_the_best_five_of_six() -> None:
    scores = np.array([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]], np.float32)
    made = Evaluation(tuple("abcdef"), ("1", "2", "3"), np.array([0, 1, 5]), np.array([0, 5, 0]), (), {}, scores)
    assert made.top5 is not None
    assert (made.top5.images, made.top5.hits, made.hits) == (3, 2, 1)
    assert made.to_mapping()["top5"]["interval"] == list(wilson(2, 3))


def test_one_class_has_no_probability() -> None:
    made = evaluate(lambda x: x.mean(axis=(2, 3))[:, :1], SPEC, ("red",), pictures(("red", "red"), classes=("red",)))
    assert made.confidence is None
    assert made.to_mapping()["calibration"]["error"] is None
    assert (made.reliability, made.coverages) == ((), ())
    with pytest.raises(DataError, match="single class"):
        made.covered(0.5)
