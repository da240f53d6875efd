"""Structural zeros: columns of a dense weight that are zero in every row that is wanted.

Branches fused into one dense head make a block-diagonal weight. Whoever asks for rows of one block needs its columns
only, and what feeds the other columns falls away. The sums lose terms that are zero, so they agree within rounding (a
kernel may add in another order). Where another branch gives NaN or infinity the full model gives NaN, the expert not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..demand import Marks, full, nothing, union


def columns_of(weight: np.ndarray[Any, Any], rows: Marks) -> Marks | None:
    """Who needs each column of ``weight`` ``[rows, columns]``, given who needs each row; None if all need all.

    Only rows that somebody needs are looked at. A row needs the columns where it is not zero; one that is zero
    throughout needs all of them, because a product over nothing cannot be written. So the columns of a set of rows
    are the union of those of each, whichever cut they are found in.
    """
    live = np.flatnonzero(rows)
    held = weight[live] != 0
    held[~held.any(axis=1)] = True
    sparse = np.flatnonzero(~held.all(axis=0))
    if not len(sparse):
        return None
    needed = nothing(False if rows.dtype == bool else 0, len(sparse))
    for mark, columns in zip(rows[live], held[:, sparse], strict=True):
        needed[columns] |= mark
    marks = full(union(rows), weight.shape[1])
    marks[sparse] = needed
    return marks
