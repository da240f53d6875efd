"""Confidence intervals: of a share (accuracy) and of a ratio of medians (latency)."""

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


def median_ratio(
    a: Sequence[float], b: Sequence[float], resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """``median(a) / median(b)`` and its 95 % interval by a paired bootstrap over blocks.

    ``a[i]`` and ``b[i]`` were measured next to each other, so that what slowed one slowed the other: the pairs are
    resampled together. Values are durations in any one unit.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    count = len(left)
    if count != len(right) or count == 0:
        raise ValueError(f"paired samples must be as long as each other and not empty, got {count} and {len(right)}")
    if not (np.isfinite(left).all() and np.isfinite(right).all() and (right > 0).all()):
        raise ValueError("durations must be finite, and the second ones positive")
    rng = np.random.default_rng(seed)
    ratios: list[float] = []
    while len(ratios) < resamples:  # in slices, so that a long run needs no more memory than a short one
        picks = rng.integers(0, count, (min(resamples - len(ratios), 1 + 2**20 // count), count))
        ratios += (np.median(left[picks], axis=1) / np.median(right[picks], axis=1)).tolist()
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(np.median(left) / np.median(right)), float(low), float(high)
