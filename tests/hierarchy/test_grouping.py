"""The grouping against the algorithm written down as it is told: recomputed from the matrix, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from expertc.errors import UsageError
from expertc.hierarchy import agglomerate


def told(matrix: np.ndarray, p_min: float, g_max: int) -> list[list[int]]:
    """Start from singletons; merge the closest pair that fits and is strictly above p_min; append it; repeat."""
    groups = [[index] for index in range(len(matrix))]
    while True:
        best, chosen = p_min, None
        for i, left in enumerate(groups):
            for j, right in enumerate(groups[i + 1 :], i + 1):
                pairs = [matrix[a][b] + matrix[b][a] for a in left for b in right]
                if len(left) + len(right) <= g_max and sum(pairs) / len(pairs) > best:
                    best, chosen = sum(pairs) / len(pairs), (i, j)
        if chosen is None:
            return groups
        i, j = chosen
        merged = groups[i] + groups[j]
        groups = [group for at, group in enumerate(groups) if at not in chosen] + [merged]


# Whole numbers, so that sums do not depend on their order and ties are many.
matrices = st.integers(1, 9).flatmap(lambda n: arrays(float, (n, n), elements=st.integers(0, 6).map(float)))


@settings(max_examples=300, deadline=None)
@given(matrices, st.sampled_from([0, 0.5, 1, 2, 3.5, 5, 8]), st.integers(2, 10))
def test_the_groups_are_those_of_the_algorithm_as_told(matrix: np.ndarray, p_min: float, g_max: int) -> None:
    assert [list(group) for group in agglomerate(matrix, g_max).groups(p_min)] == told(matrix, p_min, g_max)


@settings(max_examples=150, deadline=None)
@given(matrices, st.integers(2, 10), st.integers(1, 9))
def test_a_wanted_number_of_groups_is_had_or_impossible(matrix: np.ndarray, g_max: int, wanted: int) -> None:
    merges = agglomerate(matrix, g_max)
    heights = {merge.proximity for merge in merges.made} | {0.0}
    possible = {len(told(matrix, height, g_max)) for height in heights} | {len(matrix)}
    if wanted in possible:
        assert len(told(matrix, merges.p_min(wanted), g_max)) == wanted
    else:
        with pytest.raises(UsageError, match=f"leaves {wanted} groups") as caught:
            merges.p_min(wanted)
        assert int(caught.value.hint.split()[2].rstrip(",")) in possible


def test_real_numbers_at_the_papers_size() -> None:
    """100 classes, p_min and g_max of the paper; every group against the naive algorithm."""
    random = np.random.default_rng(7)
    matrix = random.dirichlet(np.full(100, 0.05), 100)
    groups = agglomerate(matrix, 50).groups(0.0075)
    assert [list(group) for group in groups] == told(matrix, 0.0075, 50)
    assert max(map(len, groups)) <= 50
    assert len(groups) < 100


def test_the_order_of_the_list() -> None:
    """1+2 is merged first and goes to the end; 0 and 3 stand before it; then 3 joins it from the left."""
    matrix = np.zeros((4, 4))
    matrix[2, 1], matrix[3, 1], matrix[3, 2] = 0.5, 0.25, 0.25
    assert agglomerate(matrix, 4).groups(0.1) == ((0,), (3, 1, 2))
    assert agglomerate(matrix, 2).groups(0.1) == ((0,), (3,), (1, 2))
    assert agglomerate(matrix, 4).groups(0.25) == ((0,), (3,), (1, 2))  # strictly above
    assert agglomerate(matrix, 4).groups(0.5) == ((0,), (1,), (2,), (3,))


@pytest.mark.parametrize("g_max", [1, 0, -3])
def test_groups_of_one_are_refused(g_max: int) -> None:
    with pytest.raises(UsageError, match="are no groups"):
        agglomerate(np.eye(3), g_max)


@pytest.mark.parametrize("p_min", [-0.1, float("nan")])
def test_a_proximity_that_makes_no_sense_is_refused(p_min: float) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        agglomerate(np.eye(3), 2).groups(p_min)
