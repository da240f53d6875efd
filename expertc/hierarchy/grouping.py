"""Classes that are taken for each other are put in groups: agglomerative clustering of a confusion matrix.

The algorithm is HierNet's (paper 002). It starts from single classes; the proximity of two groups is the mean of
``M[a, b] + M[b, a]`` over all pairs with ``a`` in one and ``b`` in the other; each step merges the closest pair whose
combined size is at most ``g_max``, of equally close ones the first in the list, removes both from the list and appends
the merged group (left, then right); it stops when no pair is closer than ``p_min``.

Where to stop does not influence what was merged before, so all merges are made once and then cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import UsageError

LEAST = 2  # classes of the smallest group that is one


@dataclass(frozen=True)
class Merge:
    """Two groups made one: ``left`` and ``right`` are classes (below the number of classes) or, from there on, the
    results of earlier merges in order; ``proximity`` is what they were merged at.
    """

    left: int
    right: int
    proximity: float


@dataclass(frozen=True)
class Merges:
    """All merges of ``count`` classes, closest first."""

    count: int
    made: tuple[Merge, ...]

    def groups(self, p_min: float) -> tuple[tuple[int, ...], ...]:
        """The groups left when only pairs with a proximity above ``p_min`` are merged, in the algorithm's order.

        Raises ``UsageError`` if ``p_min`` is negative or not a number.
        """
        if not p_min >= 0:
            raise UsageError(f"A smallest proximity of {p_min:g} makes no sense.", "Give --p-min from 0 on.")
        groups: dict[int, tuple[int, ...]] = {index: (index,) for index in range(self.count)}
        for number, merge in enumerate(self.made, self.count):
            if merge.proximity <= p_min:
                break
            groups[number] = groups.pop(merge.left) + groups.pop(merge.right)
        return tuple(groups.values())

    def p_min(self, groups: int) -> float:
        """A smallest proximity that leaves so many groups: a short number between the two merges that it parts.

        Raises ``UsageError``, naming the nearest number that can be had, if there is none: merges at one proximity
        cannot be told apart, and ``g_max`` and classes that are never confused leave a rest.
        """
        edges = np.minimum.accumulate([np.inf, *(merge.proximity for merge in self.made), 0.0])
        possible = {self.count - at: at for at in range(len(self.made) + 1) if edges[at + 1] < edges[at]}
        if groups not in possible:
            nearest = min(possible, key=lambda number: abs(number - groups))
            raise UsageError(
                f"No smallest proximity leaves {groups} groups of these {self.count} classes.",
                f"Ask for {nearest}, or change --g-max.",
            )
        above, below = edges[possible[groups]], edges[possible[groups] + 1]
        middle = (above + below) / 2 if np.isfinite(above) else 2 * below
        short = (float(f"{middle:.{digits}g}") for digits in range(1, 18))
        return next((number for number in short if below <= number < above), float(below))


def agglomerate(matrix: np.ndarray, g_max: int) -> Merges:
    """All merges of the classes of a confusion probability matrix, float ``[C, C]``, that ``g_max`` allows.

    Pairs that are never confused (proximity 0) are not merged. O(C²) memory; time is O(C²) but for classes that are
    many others' closest. Raises ``UsageError`` for ``g_max`` below 2.
    """
    if g_max < LEAST:
        raise UsageError(f"Groups of at most {g_max} are no groups.", "Give --g-max from 2 on.")
    count = len(matrix)
    sums = np.asarray(matrix + matrix.T, np.float64)  # of M[a, b] + M[b, a] over the pairs of two groups
    sizes = np.ones(count, np.int64)
    ages = np.arange(count)  # place in the list: a merged group keeps the row of its left part, but comes last
    near = sums.copy()  # proximities, -inf where there is nothing to merge
    np.fill_diagonal(near, -np.inf)
    closest = near.max(axis=1, initial=-np.inf)
    made: list[Merge] = []
    while (top := closest.max(initial=0.0)) > 0:
        left = _first(closest == top, ages)
        right = _first(near[left] == top, ages)
        made.append(Merge(int(ages[left]), int(ages[right]), float(top)))
        before = np.maximum(near[left], near[right])
        sums[left] += sums[right]
        sums[:, left] = sums[left]
        sizes[left] += sizes[right]
        ages[left] = count + len(made) - 1
        near[right] = near[:, right] = -np.inf
        sizes[right] = g_max  # nothing fits with it any more
        row = np.where(sizes + sizes[left] <= g_max, sums[left] / (sizes[left] * sizes), -np.inf)
        row[left] = -np.inf
        near[left] = near[:, left] = row
        # Only a row that has lost its closest must be looked through again.
        lost = np.flatnonzero((before == closest) & (row < closest))
        np.maximum(closest, row, out=closest)
        closest[lost] = near[lost].max(axis=1, initial=-np.inf)
        closest[left], closest[right] = row.max(), -np.inf
    return Merges(count, tuple(made))


def _first(among: np.ndarray, ages: np.ndarray) -> int:
    """The row of ``among`` (bool) that is first in the list."""
    rows = np.flatnonzero(among)
    return int(rows[ages[rows].argmin()])
