"""Confidence intervals: of a share (accuracy), of a ratio of medians (latency) and of a difference of means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054


def wilson(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of ``hits / total`` (Wilson 1927); (0, 1) for no trials."""
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    denominator = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / denominator
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median by order statistics, for at least 6 independent values.

    The normal approximation of the binomial rank, rounded outwards (Le Boudec, Performance Evaluation, chapter 2).
    """
    ranked, count = sorted(values), len(values)
    if count < 6:
        raise ValueError(f"the median of {count} values has no 95 % interval")
    rank = max(1, math.floor((count - Z95 * math.sqrt(count)) / 2))
    return ranked[rank - 1], ranked[count - rank]


def median_ratio(
    a: Sequence[float], b: Sequence[float], resamples: int = 1000, seed: int = 0, *, paired: bool = True
) -> tuple[float, float, float]:
    """``median(a) / median(b)`` and its 95 % interval by a bootstrap over blocks.

    ``paired``: ``a[i]`` and ``b[i]`` were measured next to each other, so that what slowed one slowed the other: the
    pairs are resampled together. Otherwise each is resampled by itself. Values are durations in any one unit.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if (paired and len(left) != len(right)) or not len(left) or not len(right):
        raise ValueError(
            f"paired samples must be as long as each other, and none empty: got {len(left)} and {len(right)}"
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all() and (right > 0).all()):
        raise ValueError("durations must be finite, and the second ones positive")
    rng = np.random.default_rng(seed)
    ratios: list[float] = []
    longest = max(len(left), len(right))
    while len(ratios) < resamples:  # in slices, so that a long run needs no more memory than a short one
        rows = min(resamples - len(ratios), 1 + 2**20 // longest)
        picks = rng.integers(0, len(left), (rows, len(left)))
        others = picks if paired else rng.integers(0, len(right), (rows, len(right)))
        ratios += (np.median(left[picks], axis=1) / np.median(right[others], axis=1)).tolist()
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(np.median(left) / np.median(right)), float(low), float(high)


def mean_difference(
    a: Sequence[float], b: Sequence[float], resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """``mean(a) - mean(b)`` and its 95 % interval by a bootstrap; ``a`` and ``b`` are resampled each by itself."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not (len(left) and len(right) and np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("the samples must be finite, and none empty")
    rng = np.random.default_rng(seed)
    differences = [
        float(rng.choice(left, len(left)).mean() - rng.choice(right, len(right)).mean()) for _ in range(resamples)
    ]
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(left.mean() - right.mean()), float(low), float(high)
