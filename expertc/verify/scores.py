"""Comparing scores: how far apart, in which order, whether they say anything at all. Pure functions of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def relative_distance(found: Array, expected: Array) -> float:
    """The largest difference over the largest expected magnitude; 0.0 only if all values are equal.

    Both are finite and have the same shape.
    """
    if np.array_equal(found, expected):
        return 0.0
    expected = expected.astype(np.float64)
    scale = float(np.abs(expected).max())
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    return difference / scale if scale else float("inf")


def by_class(values: Array, axis: int) -> Array:
    """Scores as ``[inputs, classes]``; further axes are taken as further inputs."""
    return np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).astype(np.float64)


def reversals(found: Array, expected: Array, margin: float) -> int:
    """In how many inputs two classes further apart than ``margin`` in ``expected`` are not in that order in ``found``.

    Both are ``[inputs, classes]``.
    """
    count = 0
    for got, want in zip(found, expected, strict=True):
        order = np.argsort(want, kind="stable")
        got, want = got[order], want[order]
        highest = np.maximum.accumulate(got)  # of all classes that should be lower
        below = np.searchsorted(want, want - margin, side="left")  # how many are lower by more than the margin
        clear = below > 0
        count += bool((highest[below[clear] - 1] >= got[clear]).any())
    return count


def decisions(found: Array, expected: Array, margin: float) -> tuple[int, int]:
    """How many inputs get another best class in ``found`` than in ``expected``, both ``[inputs, classes]``.

    Returns those that are clear, and those where the expected score of the class chosen is within ``margin`` of the
    best.
    """
    chosen = found.argmax(axis=1)
    lost = expected.max(axis=1) - np.take_along_axis(expected, chosen[:, None], axis=1)[:, 0]
    other = chosen != expected.argmax(axis=1)
    return int((other & (lost > margin)).sum()), int((other & (lost <= margin)).sum())


def monotony(values: Array, tolerance: float) -> tuple[int | None, str]:
    """Whether scores ``[inputs, classes]`` say nothing, being the same everywhere; returns a class and why, or "".

    ``tolerance``, relative to the largest score, is the difference that a comparison of them could not see.
    """
    floor = tolerance * float(np.abs(values).max())
    over_inputs = np.ptp(values, axis=0)
    if not over_inputs.all():
        return int(np.argmin(over_inputs)), "is the same for every input"
    if over_inputs.max() <= floor:
        return None, "hardly vary from input to input"
    if values.shape[1] > 1 and np.ptp(values, axis=1).max() <= floor:
        return None, "hardly vary from class to class"
    return None, ""
