"""Whether a model is right as often as it says: top-k, calibration, and what is left when it only speaks if sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..intervals import wilson

BINS = 15
"""Bins of the calibration error, as in Guo et al., On Calibration of Modern Neural Networks (ICML 2017), section 4."""


@dataclass(frozen=True)
class Coverage:
    """``covered`` of ``images`` have a best probability of at least ``reject``; of these, ``hits`` are right."""

    reject: float
    images: int
    covered: int
    hits: int

    @property
    def coverage(self) -> float:
        """Share of the images that are covered."""
        return self.covered / self.images

    @property
    def accuracy(self) -> float | None:
        """Share of hits among them, None if there are none."""
        return self.hits / self.covered if self.covered else None

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types, with Wilson 95 % intervals."""
        return {
            "reject": self.reject,
            "images": self.images,
            "covered": self.covered,
            "coverage": self.coverage,
            "coverage_interval": list(wilson(self.covered, self.images)),
            "hits": self.hits,
            "accuracy": self.accuracy,
            "interval": list(wilson(self.hits, self.covered)),
        }


def ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many classes stand before the true one in each row of ``[N, classes]``, int64 ``[N]``.

    Equal scores stand in the order of the classes; where one is NaN all stand before it.
    """
    own = scores[np.arange(len(scores)), truth][:, None]
    earlier = np.arange(scores.shape[1]) < truth[:, None]
    before = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    found: np.ndarray = np.where(np.isnan(scores).any(axis=1), scores.shape[1], before)
    return found


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of probabilities and whether the decisions were right, both ``[N]`` with N >= 1.

    Bins of equal width, open below and closed above; the error is the mean over all images of the distance of a bin's
    accuracy from its mean probability (Guo et al. 2017, equation 3).
    """
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def covered(confidence: np.ndarray, right: np.ndarray, reject: float) -> Coverage:
    """What is left of the images whose probability, NaN for none, is at least ``reject``."""
    sure = confidence >= reject
    return Coverage(reject, len(confidence), int(sure.sum()), int((sure & right).sum()))
