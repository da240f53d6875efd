"""What a tensor is needed for: the domain of the demand analysis.

A ``Demand`` says, per axis, which indices are needed and *by whom*. "Whom" is a set of classes. The cut asks for one
selection, so the set is just True; the search for branches asks for all classes at once and writes each set as the
bits of a Python integer. Both are the same algebra, join is ``|`` and product is ``&``, so there is one sweep and one
rule per operator for both.

An axis that is not mentioned is needed as a whole by everyone in ``who``. For one class c the demand is a box: the
product over the axes of the indices whose mark contains c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from ..graph import Dim

Who = bool | int
"""A set of classes: True for the one selection of a cut, or a bit set."""

Marks = np.ndarray[Any, Any]
"""One ``Who`` per index of an axis, shape ``[size]``; dtype bool or object (Python integers)."""


@dataclass(frozen=True)
class Demand:
    """``who`` needs the tensor, and of axis a only the indices whose entry in ``marks[a]`` contains them."""

    who: Who
    marks: Mapping[int, Marks] = field(default_factory=dict)

    def axis(self, axis: int, size: int) -> Marks:
        """The marks of an axis of ``size``, written out."""
        found = self.marks.get(axis)
        return full(self.who, size) if found is None else found

    def moved(self, axes: Mapping[int, int]) -> Demand:
        """The demand with axis ``a`` renamed ``axes[a]``; axes not named are dropped (needed as a whole)."""
        return Demand(self.who, {axes[a]: m for a, m in self.marks.items() if a in axes})

    def only(self, *axes: int) -> Demand:
        """The demand with every other axis needed as a whole."""
        return Demand(self.who, {a: m for a, m in self.marks.items() if a in axes})

    def without(self, *axes: int) -> Demand:
        """The demand with these axes needed as a whole."""
        return Demand(self.who, {a: m for a, m in self.marks.items() if a not in axes})

    def indices(self, axis: int) -> np.ndarray[Any, Any] | None:
        """The indices of an axis that anybody needs, ascending; None for all of them."""
        found = self.marks.get(axis)
        return None if found is None else np.flatnonzero(found)

    def size(self, axis: int, dim: Dim) -> Dim:
        """How many indices of an axis of size ``dim`` are needed."""
        found = self.marks.get(axis)
        return dim if found is None else int(np.count_nonzero(found))


def demand(who: Who, marks: Mapping[int, Marks]) -> Demand | None:
    """A demand in normal form: nobody's is None, an axis that everyone needs as a whole is not mentioned.

    A class that needs no index of some axis needs nothing of the tensor at all.
    """
    for mark in marks.values():
        who = who & union(mark)
    if not who:
        return None
    kept = {}
    for axis, mark in sorted(marks.items()):
        narrowed = mark & who
        if not bool((narrowed == who).all()):
            kept[axis] = narrowed
    return Demand(who, kept)


def join(demands: Iterable[Demand | None]) -> Demand | None:
    """What satisfies all of ``demands``: the union per axis. It may be larger than the union of the boxes."""
    present = [item for item in demands if item is not None]
    if len(present) < 2:
        return present[0] if present else None
    who = reduce(lambda a, b: a | b, (item.who for item in present))
    marks = {}
    for axis in {axis for item in present for axis in item.marks}:
        size = next(len(item.marks[axis]) for item in present if axis in item.marks)
        marks[axis] = reduce(lambda a, b: a | b, (item.axis(axis, size) for item in present))
    return demand(who, marks)


def covers(have: Demand, want: Demand) -> bool:
    """Whether everything in ``want`` is in ``have``."""
    return all(bool(((want.axis(a, len(m)) & m) == want.axis(a, len(m))).all()) for a, m in have.marks.items())


def full(who: Who, size: int) -> Marks:
    """Marks of an axis that ``who`` needs as a whole."""
    return np.full(size, who, dtype=bool if isinstance(who, bool) else object)


def nothing(who: Who, size: int) -> Marks:
    """Marks of an axis that nobody needs, in the type of ``who``."""
    return full(False if isinstance(who, bool) else 0, size)


def union(marks: Marks) -> Who:
    """Everybody who needs any index."""
    return _who(np.bitwise_or.reduce(marks, axis=None)) if marks.size else False


def any_along(marks: Marks, axes: tuple[int, ...]) -> Marks:
    """The union over ``axes`` of marks laid out over several axes."""
    for axis in sorted(axes, reverse=True):
        marks = np.bitwise_or.reduce(marks, axis=axis)
    return marks


def product(parts: Sequence[Marks]) -> Marks:
    """The marks of the flattened product of several axes, in row-major order."""
    return reduce(lambda a, b: (a[:, None] & b[None, :]).reshape(-1), parts)


def shares(item: Demand, shape: Sequence[int]) -> dict[Who, int]:
    """How many elements of a tensor of ``shape`` each set of classes needs: the cost of a branch is read off here."""
    counted: dict[Who, int] = {item.who: 1}
    for axis, size in enumerate(shape):
        mark = item.marks.get(axis)
        if mark is None:
            counted = {who: n * size for who, n in counted.items()}
            continue
        spread: Counter[Who] = Counter()
        for value, times in Counter(mark.tolist()).items():
            for who, n in counted.items():
                spread[who & value] += n * times
        counted = dict(spread)
    return {who: n for who, n in counted.items() if who and n}


def _who(value: Any) -> Who:
    return bool(value) if isinstance(value, (bool, np.bool_)) else int(value)
