"""The equation of an Einsum: the name of every axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

DOTS = "..."
"""Begins the names of the axes behind an ellipsis."""


def letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The name of every axis of every operand, and of the output; those of an ellipsis count from its right end.

    Raises ``ValueError`` if the equation does not fit operands of these ``ranks``.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    operands = [_term(term, rank - len(term.replace(DOTS, ""))) for term, rank in zip(terms, ranks, strict=True)]
    hidden = max(len(axes) - len(term.replace(DOTS, "")) for term, axes in zip(terms, operands, strict=True))
    if not arrow:
        once = (letter for letter, times in Counter("".join(terms).replace(DOTS, "")).items() if times == 1)
        right = DOTS + "".join(sorted(once))
    result = _term(right, hidden if DOTS in right else 0)
    if len(set(result)) < len(result) or not set(result) <= set(chain(*operands)):
        raise ValueError(f"the output of the equation '{equation}' does not follow from its operands")
    return operands, result


def _term(term: str, hidden: int) -> list[str]:
    """The axes of one term, ``hidden`` of them behind its ellipsis."""
    before, dots, after = term.partition(DOTS)
    if hidden < 0 or (hidden and not dots):
        raise ValueError(f"the term '{term}' does not fit its operand")
    return [*before, *(f"{DOTS}{k}" for k in range(hidden - 1, -1, -1)), *after]
