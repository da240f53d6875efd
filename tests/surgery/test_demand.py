"""The algebra of demands: joins and products hold for one selection and for all classes at once alike."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertc.surgery.demand import (
    Demand, any_along, covers, demand, full, join, nothing, product, shares, union,
)  # fmt: skip

CLASSES = 70  # more than fit into a machine word
SHAPE = (3, 4)


def bits(*classes: int) -> int:
    return sum(1 << c for c in set(classes))


@st.composite
def demands(draw: st.DrawFn) -> Demand | None:
    """A demand on a tensor of ``SHAPE``, as bit sets of classes."""
    who = draw(st.integers(0, bits(0, 1, 2, CLASSES - 1)))
    marks = {}
    for axis, size in enumerate(SHAPE):
        if draw(st.booleans()):
            marks[axis] = np.array(draw(st.lists(st.integers(0, bits(0, 1, 2, CLASSES - 1)), min_size=size, max_size=size)), dtype=object)
    return demand(who, marks)


def elements(item: Demand | None, chosen: int) -> set[tuple[int, ...]]:
    """The elements that class ``chosen`` needs: its box, written out."""
    if item is None or not item.who >> chosen & 1:
        return set()
    sides = [[i for i in range(size) if item.axis(axis, size)[i] >> chosen & 1] for axis, size in enumerate(SHAPE)]
    return set(itertools.product(*sides))


def as_selection(item: Demand | None, chosen: int) -> Demand | None:
    """The same demand for one class alone, in booleans."""
    if item is None or not item.who >> chosen & 1:
        return None
    return demand(True, {axis: np.array([bool(m >> chosen & 1) for m in marks]) for axis, marks in item.marks.items()})


@given(demands())
def test_normal_form(item: Demand | None) -> None:
    if item is None:
        return
    assert item.who
    for axis, marks in item.marks.items():
        assert union(marks) == item.who  # whoever needs the tensor needs some index of every axis
        assert len(marks) == SHAPE[axis]
        assert any(mark != item.who for mark in marks)
    again = demand(item.who, item.marks)
    assert again is not None
    assert again.who == item.who
    assert again.marks.keys() == item.marks.keys()


@given(demands(), demands())
def test_a_join_has_what_both_need_and_is_a_box(one: Demand | None, other: Demand | None) -> None:
    both = join((one, other))
    for c in (0, 1, 2, CLASSES - 1):
        need = elements(one, c) | elements(other, c)
        got = elements(both, c)
        assert need <= got
        sides = [{place[axis] for place in need} for axis in range(len(SHAPE))]
        assert got == set(itertools.product(*sides))  # and no larger than the smallest box


@given(demands(), demands(), demands())
def test_join_does_not_care_for_order(one: Demand | None, two: Demand | None, three: Demand | None) -> None:
    first, second = join((one, join((two, three)))), join((join((three, one)), two))
    for c in (0, 1, 2, CLASSES - 1):
        assert elements(first, c) == elements(second, c)


@given(demands(), demands())
def test_many_classes_at_once_are_the_single_selections_side_by_side(one: Demand | None, other: Demand | None) -> None:
    both = join((one, other))
    for c in (0, 1, 2, CLASSES - 1):
        alone = join((as_selection(one, c), as_selection(other, c)))
        counted = 0 if alone is None else int(np.prod([alone.size(a, s) for a, s in enumerate(SHAPE)]))
        assert len(elements(both, c)) == counted


@given(demands())
def test_shares_count_every_element_once(item: Demand | None) -> None:
    if item is None:
        return
    expected = Counter(
        who
        for place in itertools.product(*(range(size) for size in SHAPE))
        if (who := item.who & item.axis(0, SHAPE[0])[place[0]] & item.axis(1, SHAPE[1])[place[1]])
    )
    assert shares(item, SHAPE) == dict(expected)


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
