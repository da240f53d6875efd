"""The algebra of demands: joins and products hold for one selection and for all classes at once alike."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from expertc.surgery.demand import Demand, demand, join, shares, union

CLASSES = 70  # more than fit into a machine word
SHAPE = (3, 4)
TRIED = (0, 1, 2, CLASSES - 1)
EVERYONE = sum(1 << c for c in TRIED)


@st.composite
def demands(draw: st.DrawFn) -> Demand | None:
    """A demand on a tensor of ``SHAPE``, as bit sets of classes."""
    who = draw(st.integers(0, EVERYONE))
    marks = {}
    for axis, size in enumerate(SHAPE):
        if draw(st.booleans()):
            marks[axis] = np.array(draw(st.lists(st.integers(0, EVERYONE), min_size=size, max_size=size)), dtype=object)
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
    for c in TRIED:
        need = elements(one, c) | elements(other, c)
        got = elements(both, c)
        assert need <= got
        sides = [{place[axis] for place in need} for axis in range(len(SHAPE))]
        assert got == set(itertools.product(*sides))  # and no larger than the smallest box


@given(demands(), demands(), demands())
def test_join_does_not_care_for_order(one: Demand | None, two: Demand | None, three: Demand | None) -> None:
    first, second = join((one, join((two, three)))), join((join((three, one)), two))
    for c in TRIED:
        assert elements(first, c) == elements(second, c)


@given(demands(), demands())
def test_many_classes_at_once_are_the_single_selections_side_by_side(one: Demand | None, other: Demand | None) -> None:
    both = join((one, other))
    for c in TRIED:
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
