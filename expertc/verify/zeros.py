"""Columns of a dense weight that an expert left out: right if they are zero in every row that it kept.

The reference must not read them either. What stands for a branch that is gone is NaN there, and 0 * NaN is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Node
from .weights import part_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Unread:
    """Of input ``position`` of a product, these ``columns`` of its ``axis`` (of two) are multiplied with zeros."""

    position: int
    axis: int
    columns: tuple[int, ...]

    def mask(self, size: int) -> Array:
        """True for what is read, in a shape that is broadcast to the input; ``size`` is that of the axis."""
        read = np.ones(size, dtype=bool)
        read[list(self.columns)] = False
        return read.reshape([-1, 1] if self.axis == 0 else [1, -1])


def unread(node: Node, part: Array, whole: Array, position: int) -> Unread | None:
    """What the other operand has for nothing, if ``part`` is all that the expert has of the weight at ``position``.

    None if the weight is not short of columns, or one that is missing is not zero in a row that is there.
    """
    if node.op not in ("Gemm", "MatMul") or position > 1 or whole.ndim != 2:
        return None
    inner = [0 if node.attrs.get("transA", 0) else 1, 1 if node.attrs.get("transB", 0) else 0]
    own = inner[position]
    if part.shape[own] == whole.shape[own]:
        return None
    taken = part_of(part, whole)
    if taken is None:
        return None
    missing = np.setdiff1d(np.arange(whole.shape[own]), taken[own])
    rows = whole if 1 - own not in taken else whole.take(taken[1 - own], 1 - own)
    if (rows.take(missing, own) != 0).any():
        return None
    return Unread(1 - position, inner[1 - position], tuple(missing.tolist()))
