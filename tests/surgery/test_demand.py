"""The algebra of demands: normal form, joins, moves."""

from __future__ import annotations

import numpy as np
import pytest

from expertc.surgery.demand import (
    Demand,
    any_along,
    covers,
    demand,
    full,
    join,
    nothing,
    product,
    union,
)  # fmt: skip

CLASSES = 70  # more than fit into a machine word


def bits(*classes: int) -> int:
    return sum(1 << c for c in set(classes))


def test_an_axis_needed_as_a_whole_is_not_mentioned() -> None:
    item = demand(True, {0: np.array([True, True]), 1: np.array([True, False])})
    assert item is not None
    assert list(item.marks) == [1]
    assert item.indices(0) is None
    assert item.indices(1).tolist() == [0]
    assert (item.size(0, "n"), item.size(1, 2)) == ("n", 1)


def test_nothing_of_an_axis_is_nothing_of_the_tensor() -> None:
    assert demand(True, {0: nothing(True, 3)}) is None
    assert demand(bits(1, 2), {0: np.array([bits(1), 0], dtype=object), 1: np.array([bits(2)], dtype=object)}) is None
    assert join((None, None)) is None


def test_a_join_with_a_whole_demand_is_whole() -> None:
    part = demand(True, {1: np.array([True, False, False])})
    assert join((part, Demand(True))) == Demand(True)


@pytest.mark.parametrize(
    ("have", "want", "answer"),
    [
        ({}, {0: [True, False]}, True),
        ({0: [True, False]}, {}, False),
        ({0: [True, False]}, {0: [True, False]}, True),
        ({0: [True, False]}, {0: [False, True]}, False),
        ({0: [True, False]}, {0: [True, False], 1: [True, False]}, True),
        ({0: [True, False], 1: [True, False]}, {0: [True, False]}, False),
    ],
)
def test_covers(have: dict[int, list[bool]], want: dict[int, list[bool]], answer: bool) -> None:
    one, other = (Demand(True, {a: np.array(m) for a, m in marks.items()}) for marks in (have, want))
    assert covers(one, other) is answer


def test_moving_axes() -> None:
    item = Demand(True, {1: np.array([True, False]), 2: np.array([False, True, True])})
    assert set(item.moved({1: 0, 2: 3}).marks) == {0, 3}
    assert set(item.moved({1: 0}).marks) == {0}
    assert set(item.only(2).marks) == set(item.without(1).marks) == {2}


def test_products_and_unions_of_marks_run_in_row_major_order() -> None:
    flat = product([np.array([True, False]), np.array([False, True, True])])
    assert flat.tolist() == [False, True, True, False, False, False]
    assert any_along(flat.reshape(2, 3), (1,)).tolist() == [True, False]
    assert any_along(flat.reshape(2, 3), (0,)).tolist() == [False, True, True]
    huge = np.array([bits(3), bits(CLASSES - 1)], dtype=object)
    assert union(product([huge, full(bits(3, CLASSES - 1), 2)])) == bits(3, CLASSES - 1)
    assert union(nothing(True, 0)) is False
