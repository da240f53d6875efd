"""Own photos against others: every figure counted pair by pair, the threshold by its promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertc.errors import DataError, UsageError
from expertc.evaluate.calibrate import calibrate
from expertc.evaluate.scope import auroc, false_positives, roc, separations, threshold
from expertc.runtime.scores import scope_score

numbers = st.lists(st.integers(-9, 9).map(lambda n: n / 4), min_size=1, max_size=40).map(np.array)


@given(numbers, numbers)
def test_auroc_is_the_share_of_pairs(own: np.ndarray, others: np.ndarray) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in own for b in others]
    assert auroc(own, others) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert auroc(own, others) + auroc(others, own) == pytest.approx(1)


@given(numbers, numbers)
def test_false_positives_at_the_highest_threshold_that_lets_95_per_cent_in(own: np.ndarray, others: np.ndarray) -> None:
    allowed = [cut for cut in own if 100 * sum(own >= cut) >= 95 * len(own)]
    assert false_positives(own, others) == pytest.approx(np.mean(others >= max(allowed)))


@given(numbers, numbers)
def test_the_area_under_the_curve_is_the_auroc(own: np.ndarray, others: np.ndarray) -> None:
    let_in, wrongly = roc(own, others)
    assert (let_in[0], wrongly[0], let_in[-1], wrongly[-1]) == (0, 0, 1, 1)
    area = np.sum(np.diff(wrongly) * (np.array(let_in[1:]) + np.array(let_in[:-1])) / 2)
    assert area == pytest.approx(auroc(own, others), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(20, 300), st.floats(0.05, 0.95))
def test_the_threshold_rejects_the_asked_share(seed: int, count: int, rate: float) -> None:
    own = np.random.default_rng(seed).standard_normal(count)
    rejected = int((own < threshold(own, rate)).sum())
    assert rejected <= rate * count + 1e-6 < rejected + 1 + 1e-6
    gap = np.abs(own - threshold(own, rate)).min()
    pair = np.sort(own)[rejected - 1 : rejected + 1]
    assert gap == pytest.approx(np.diff(pair)[0] / 2)


def test_whole_numbers_of_photos_in_spite_of_rounding() -> None:
    """0.29 times 100 is a little less than 29 in floating point."""
    assert int((np.arange(100.0) < threshold(np.arange(100.0), 0.29)).sum()) == 29


def test_equal_scores_are_not_torn_apart() -> None:
    own = np.array([0.0] * 3 + [1.0] * 17)
    assert int((own < threshold(own, 0.15)).sum()) == 3
    assert int((own < threshold(own, 0.25)).sum()) == 3  # the next 17 are equal: not 5
    with pytest.raises(DataError, match="all equal"):
        threshold(own, 0.1)
    close = np.array([1.0, np.nextafter(1.0, 2)] + [2.0] * 18)
    assert int((close < threshold(close, 0.05)).sum()) == 1


def test_too_few_photos() -> None:
    with pytest.raises(DataError, match="19 photos are too few to reject 5 %") as caught:
        threshold(np.arange(19.0), 0.05)
    assert "at least 20" in caught.value.hint
    threshold(np.arange(20.0), 0.05)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3))
def test_scores_against_numpy(row: list[float]) -> None:
    logits = np.array([row], np.float32)
    wide = logits.astype(np.float64)
    assert scope_score("energy", logits, "logits")[0] == pytest.approx(np.logaddexp.reduce(wide[0]), rel=1e-12)
    assert scope_score("max-logit", logits, "logits")[0] == wide.max()


def test_probabilities_have_only_the_largest() -> None:
    joint = np.array([[0.2, 0.6]], np.float32)
    assert scope_score("max-probability", joint, "joint")[0] == pytest.approx(0.75)
    assert scope_score("max-probability", joint, "scores")[0] == pytest.approx(0.6)
    assert scope_score("max-probability", joint[:, :1], "joint")[0] == pytest.approx(0.2)  # alone: the raw number
    [one] = separations(joint.repeat(3, 0), joint.repeat(3, 0), "probabilities")
    assert (one.score, one.auroc) == ("max-probability", 0.5)


def test_the_score_that_separates_better_is_taken() -> None:
    """Both classes at once tell the own photos here, which only the energy sees; and the other way round."""
    both, one = np.tile([[3.0, 3.0]], (40, 1)), np.tile([[3.2, -9.0]], (40, 1))
    noise = np.random.default_rng(0).normal(0, 0.01, (40, 2))
    found = calibrate(both + noise, one + noise, "logits", 0.1)
    assert [s.score for s in found.separations] == ["energy", "max-logit"]
    assert (found.reject.score, found.separations[0].auroc, found.separations[1].auroc) == ("energy", 1, 0)
    assert (found.rejected, found.caught, found.reject.caught) == (4, 40, 1)
    assert found.reject.rejects(one, "logits").all()
    other = calibrate(one + noise, both + noise, "logits", 0.1)
    assert (other.reject.score, other.separations[0].auroc) == ("max-logit", 1)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan"), float("inf")])
def test_a_rate_is_between_nothing_and_all(rate: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        calibrate(np.zeros((9, 2)), np.zeros((9, 2)), "logits", rate)
