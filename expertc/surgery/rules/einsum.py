"""Einsum: every letter of the output carries its own set, letters that are summed stay whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from ..demand import Marks, demand
from ..site import Answer, Rule, Site, Wanted, opaque

_DOTS = "..."


def letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The name of every axis of every operand, and of the output; those of an ellipsis count from its right end.

    Raises ``ValueError`` if the equation does not fit operands of these ``ranks``.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    operands = [_term(term, rank - len(term.replace(_DOTS, ""))) for term, rank in zip(terms, ranks, strict=True)]
    hidden = max(len(axes) - len(term.replace(_DOTS, "")) for term, axes in zip(terms, operands, strict=True))
    if not arrow:
        once = (letter for letter, times in Counter("".join(terms).replace(_DOTS, "")).items() if times == 1)
        right = _DOTS + "".join(sorted(once))
    result = _term(right, hidden if _DOTS in right else 0)
    if len(set(result)) < len(result) or not set(result) <= set(chain(*operands)):
        raise ValueError(f"the output of the equation '{equation}' does not follow from its operands")
    return operands, result


def _term(term: str, hidden: int) -> list[str]:
    """The axes of one term, ``hidden`` of them behind its ellipsis."""
    before, dots, after = term.partition(_DOTS)
    if hidden < 0 or (hidden and not dots):
        raise ValueError(f"the term '{term}' does not fit its operand")
    return [*before, *(f"{_DOTS}{k}" for k in range(hidden - 1, -1, -1)), *after]


def _einsum(site: Site, wanted: Wanted) -> Answer:
    """An operand is asked for the output's set on each axis of that name; a repeated letter, for both its axes."""
    item, shapes = wanted[0], [site.shape(i) for i in range(len(site.node.inputs))]
    known = [shape for shape in shapes if shape is not None]
    if item is None or len(known) < len(shapes):
        return opaque(site, wanted, "the shapes of Einsum are not known")
    operands, result = letters(str(site.attribute("equation")), [len(shape) for shape in known])
    wants = {result[axis]: marks for axis, marks in item.marks.items()}
    asks = []
    for axes, shape in zip(operands, known, strict=True):
        own: dict[int, Marks] = {}
        for axis, (letter, size) in enumerate(zip(axes, shape, strict=True)):
            if letter in wants and size == len(wants[letter]):
                own[axis] = wants[letter]
            elif letter in wants and size != 1:  # 1 is broadcast; a symbol may turn out to be 1
                return opaque(site, wanted, "Einsum broadcasts an axis of unknown size")
        asks.append(demand(item.who, own))
    return Answer(tuple(asks), (item,))


RULES: dict[str, Rule] = {"Einsum": Rule(_einsum)}
